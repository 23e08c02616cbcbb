"""Write a checkpoint's averaged generator as a release file, with changed settings if asked for.

The same weights, sampled differently::

    python tools/export.py work_dirs/ddpm_cifar10/iter_800000.pth ddim50/iter_800000.safetensors \\
        --cfg-options model.sampler=ddim model.sampling_steps=50
"""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
from pathlib import Path

from ddgan.engine import read_weights, save_release
from ddgan.engine.config import check_config, check_trusted_types
from ddgan.errors import UserError
from ddgan.utils.cli import add_options, running


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint's averaged generator, with its config, as a safetensors "
        "file."
    )
    add_options(parser, "checkpoint", "--import")
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument("--name", help="the config's name in records of the file; default: kept")
    add_options(parser, "--cfg-options", help="settings to change, such as model.sampling_steps=50")
    return parser.parse_args()


def main() -> None:
    """Read, change and write."""
    args = parse_args()
    with running(args):
        if args.out.suffix != ".safetensors":
            raise UserError(f"{args.out}: expected the name of a .safetensors file")
        config, state, info = read_weights(args.checkpoint)
        config.merge_from_dict(args.cfg_options)
        check_trusted_types(config.model)
        config.merge_from_dict(check_config(config.to_dict()))
        if args.name:
            config.experiment_name = args.name
        args.out.parent.mkdir(parents=True, exist_ok=True)
        averaged = {n: tensor for n, tensor in state.items() if n.startswith("generator_ema.")}
        save_release(args.out, averaged, config, info)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()

"""Write a checkpoint's averaged generator as a release file, with other settings if wanted.

``python tools/export.py work_dirs/ddpm_cifar10/iter_800000.pth ddim50/iter_800000.safetensors
--cfg-options model.sampler=ddim model.sampling_steps=50``: the same weights, sampled otherwise.
"""

import argparse
from pathlib import Path

from ddgan.engine import read_weights, save_release
from ddgan.engine.config import check_config, check_trusted_types
from ddgan.errors import UserError
from ddgan.utils.cli import OptionsAction, import_packages, user_errors


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint's averaged generator, with its config, as a safetensors "
        "file."
    )
    parser.add_argument("checkpoint", help="iter_N.pth of a run, or a .safetensors release file")
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument("--name", help="what records of it name as config; default its own name")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=OptionsAction,
        default={},
        metavar="KEY=VALUE",
        help="settings to change, such as model.sampling_steps=50",
    )
    parser.add_argument(
        "--import", nargs="+", default=[], dest="packages", help="packages that register modules"
    )
    return parser.parse_args()


def main() -> None:
    """Read, change and write."""
    args = parse_args()
    with user_errors():
        if args.out.suffix != ".safetensors":
            raise UserError(f"{args.out}: expected the name of a .safetensors file")
        import_packages(args.packages)
        config, state, info = read_weights(args.checkpoint)
        config.merge_from_dict(args.cfg_options)
        check_trusted_types(config.model)
        check_config(config.to_dict())
        if args.name:
            config.experiment_name = args.name
        args.out.parent.mkdir(parents=True, exist_ok=True)
        averaged = {n: tensor for n, tensor in state.items() if n.startswith("generator_ema.")}
        save_release(args.out, averaged, config, info)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()

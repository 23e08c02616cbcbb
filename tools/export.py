"""Write a checkpoint's averaged generator for other programs, or as a release file.

The ending of the file chooses its form::

    python tools/export.py iter_400000.pth ddgan.onnx         # ONNX
    python tools/export.py iter_400000.pth ddgan.pt2          # torch.export
    python tools/export.py iter_400000.pth ddgan.so           # AOTInductor
    python tools/export.py iter_400000.pth ddgan.safetensors  # weights and config, for this project

The first three hold the whole sampler, with the noise as inputs, and a JSON file next to them says
which. ``--check`` compares such a file with the model instead of writing it. The same weights,
sampled differently::

    python tools/export.py work_dirs/ddpm_cifar10/iter_800000.pth ddim50/iter_800000.safetensors \\
        --cfg-options model.sampler=ddim model.sampling_steps=50
"""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
from pathlib import Path

from ddgan import export
from ddgan.engine import read_weights, save_release
from ddgan.engine.checkpoint import load_weights
from ddgan.engine.config import check_config, check_trusted_types
from ddgan.errors import UserError
from ddgan.models.base import GenerativeModel
from ddgan.registry import MODELS
from ddgan.utils.cli import add_options, running


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write a checkpoint's averaged generator for other programs, or as a release "
        "file."
    )
    add_options(parser, "checkpoint", "--import")
    endings = ", ".join((*export.SUFFIXES, ".safetensors"))
    parser.add_argument("out", type=Path, help=f"the file to write, with one of {endings}")
    parser.add_argument(
        "--part",
        choices=export.PARTS,
        default="sampler",
        help="the whole sampler (default), or the generator alone",
    )
    parser.add_argument(
        "--check", action="store_true", help="compare the exported file with the model"
    )
    add_options(parser, "--seed", help="of the samples that --check compares; default 0")
    parser.add_argument(
        "--name", help="the config's name in records of the release file; default: kept"
    )
    add_options(parser, "--cfg-options", help="settings to change, such as model.sampling_steps=50")
    return parser.parse_args()


def main() -> None:
    """Read, change, and write or compare."""
    args = parse_args()
    with running(args):
        if args.out.suffix not in (*export.SUFFIXES, ".safetensors"):
            endings = ", ".join((*export.SUFFIXES, ".safetensors"))
            raise UserError(f"{args.out}: expected a name that ends with one of {endings}")
        config, state, info = read_weights(args.checkpoint)
        config.merge_from_dict(args.cfg_options)
        check_trusted_types(config.model)
        config.merge_from_dict(check_config(config.to_dict()))
        if args.out.suffix == ".safetensors":
            if args.check:
                raise UserError("--check compares exported files; a release file holds weights")
            if args.name:
                config.experiment_name = args.name
            averaged = {n: tensor for n, tensor in state.items() if n.startswith("generator_ema.")}
            save_release(args.out, averaged, config, info)
            print(f"wrote {args.out}")
            return
        model = MODELS.build(config.model)
        load_weights(model, state, args.checkpoint)
        model.eval().requires_grad_(False)
        if args.check:
            check(model, args.out, args.seed)
            return
        export.export(model, args.out, args.part)
        print(f"wrote {args.out} and {export.description_path(args.out)}")


def check(model: GenerativeModel, path: Path, seed: int) -> None:
    """Print how far the file is from the model, and what half precision would change."""
    rows = export.check(model, path, seed)
    print(f"{'':20} {'largest':>9} {'mean':>9} {'levels':>7} {'changed':>8}")
    for row in [*rows, *export.precision(model, seed)]:
        print(f"{row.name:20} {row.largest:9.2e} {row.mean:9.2e} {row.levels:7} {row.changed:8.2%}")
    *plain, compiled = rows
    close = all(row.largest <= export.TOLERANCE and row.levels <= 1 for row in plain)
    # The compiled operators round otherwise, and an ill-conditioned sampler amplifies that.
    if not close or compiled.levels > 1:
        raise UserError(
            f"{path} is not the model: expected differences of at most {export.TOLERANCE:g}, and "
            "one level in images; export it again with the versions that are installed now"
        )
    print(f"{path} equals the model in batches of {export.CHECKED_BATCHES}")


if __name__ == "__main__":
    main()

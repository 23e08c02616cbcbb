"""Convert weights of the published DDGAN release (netG_*.pth or content.pth) to a release file.

    python tools/convert_official.py netG_1200.pth --config configs/ddgan_cifar10.py \
        --out ddgan_cifar10.safetensors
"""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
from pathlib import Path

from ddgan.engine import load_config
from ddgan.engine.checkpoint import save_release
from ddgan.networks.official import convert_model, read_official
from ddgan.registry import MODELS
from ddgan.utils.cli import user_errors


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Convert weights of the published release.")
    parser.add_argument("weights", type=Path, help="netG_*.pth or content.pth")
    parser.add_argument("--config", required=True, help="the config with the same networks")
    parser.add_argument("--out", type=Path, required=True, help="*.safetensors file to write")
    args = parser.parse_args()
    if args.out.suffix != ".safetensors":
        parser.error(f"--out is {args.out}; expected a name that ends in .safetensors")
    return args


def convert(weights: Path, config: str, out: Path) -> None:
    """Write the release file ``out`` and print what it holds."""
    cfg = load_config(config)
    file = read_official(weights)
    state = convert_model(file, MODELS.build(cfg.model))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_release(out, state, cfg, file.info)
    networks = ", ".join(dict.fromkeys(key.split(".")[0] for key in state))
    print(f"Wrote {networks} to {out}; each of their official tensors was used exactly once.")
    if file.unused:
        print(f"Left out, as a release file only holds weights: {', '.join(file.unused)}.")


def main() -> None:
    """Convert the file that the command line names."""
    args = parse_args()
    with user_errors():
        convert(args.weights, args.config, args.out)


if __name__ == "__main__":
    main()

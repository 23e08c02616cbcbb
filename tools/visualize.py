"""Draw pictures of runs and models: ``python tools/visualize.py curves work_dirs/quickstart``."""

import argparse

import torch

from ddgan.apis import load_model
from ddgan.data import StackedDigits
from ddgan.engine.cli import user_errors
from ddgan.evaluation import digit_classifier
from ddgan.visualization import plot_curves, plot_digits


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Draw pictures of runs and models.")
    commands = parser.add_subparsers(required=True, metavar="PICTURE")

    curves = commands.add_parser("curves", help="losses, per time step too, and gradient norms")
    curves.add_argument("run", help="folder of a training run")
    curves.set_defaults(draw=draw_curves)

    digits = commands.add_parser("digits", help="stacked digits, each beside its three channels")
    digits.add_argument("checkpoint", help="of a model trained on StackedDigits")
    digits.add_argument("--num", type=int, default=40)
    digits.add_argument("--seed", type=int, default=0)
    digits.set_defaults(draw=draw_digits)

    for command in (curves, digits):
        command.add_argument("--out", required=True, help="the PNG to write")
    return parser.parse_args()


def draw_curves(args: argparse.Namespace) -> None:
    """Draw the curves of a run."""
    plot_curves(args.run, args.out)


def draw_digits(args: argparse.Namespace) -> None:
    """Sample digits, classify them, and draw them below real ones."""
    samples = load_model(args.checkpoint).sample(args.num, seed=args.seed)
    data = StackedDigits()
    real = [data[index] for index in range(10)]
    panels = {
        "data": (torch.stack([item["x"] for item in real]), [item["label"] for item in real]),
        "samples, as the classifier reads them": (
            samples,
            digit_classifier().modes(samples.cpu().numpy()),
        ),
    }
    plot_digits(panels, args.out)


def main() -> None:
    """Draw what is asked for."""
    args = parse_args()
    with user_errors():
        args.draw(args)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()

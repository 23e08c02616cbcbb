"""Draw pictures of runs and models: ``python tools/visualize.py curves work_dirs/quickstart``."""

import argparse

import torch

from ddgan.apis import load_model
from ddgan.data import StackedDigits
from ddgan.engine.cli import user_errors
from ddgan.evaluation import digit_classifier
from ddgan.visualization import (
    along_path,
    between_latents,
    between_noise,
    plot_curves,
    plot_digits,
    save_rows,
)

# SPI-GAN's latent studies: name → (what it draws, function).
LATENT = {
    "latent-path": ("pictures of h(t) from h(0) to h(1)", along_path),
    "interpolate-z": ("pictures between two noises z", between_noise),
    "interpolate-h": ("pictures between two latents h(1)", between_latents),
}


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

    latent = [commands.add_parser(name, help=text) for name, (text, _) in LATENT.items()]
    for name, command in zip(LATENT, latent, strict=True):
        command.add_argument("checkpoint", help="of an SPI-GAN")
        command.add_argument("--rows", type=int, default=8, help="how many samples or pairs")
        command.add_argument("--points", type=int, default=8, help="pictures per row")
        command.add_argument("--seed", type=int, default=0)
        command.set_defaults(draw=draw_latents, pictures=LATENT[name][1])

    for command in (curves, digits, *latent):
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


def draw_latents(args: argparse.Namespace) -> None:
    """Draw rows of pictures along a path of latents."""
    model = load_model(args.checkpoint)
    save_rows(args.pictures(model, args.rows, args.points, args.seed), args.out)


def main() -> None:
    """Draw what is asked for."""
    args = parse_args()
    with user_errors():
        args.draw(args)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()

"""Draw images of runs and models: ``python tools/visualize.py curves work_dirs/quickstart``."""

import argparse

import torch

from ddgan.apis import load_model
from ddgan.data import StackedDigits
from ddgan.engine.checkpoint import read_weights
from ddgan.engine.config import check_trusted_types
from ddgan.errors import UserError
from ddgan.evaluation import digit_classifier
from ddgan.registry import DATASETS
from ddgan.utils.cli import OptionsAction, user_errors
from ddgan.utils.device import set_up_cpu
from ddgan.visualization import (
    along_path,
    between_latents,
    between_noise,
    plot_curves,
    plot_denoising,
    plot_digits,
    plot_multimodal,
    plot_paths,
    save_rows,
)

# SPI-GAN's latent studies: name → (what it draws, function).
LATENT = {
    "latent-path": ("images of h(t) from h(0) to h(1)", along_path),
    "interpolate-z": ("images between two noises z", between_noise),
    "interpolate-h": ("images between two latents h(1)", between_latents),
}


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Draw images of runs and models.")
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
        command.add_argument("--points", type=int, default=8, help="images per row")
        command.add_argument("--seed", type=int, default=0)
        command.set_defaults(draw=draw_latents, images=LATENT[name][1])

    denoising = commands.add_parser(
        "denoising-1d", help="1-D data diffused, and its true denoising distributions, exactly"
    )
    denoising.add_argument("--x", type=float, default=0.4, help="the value of x_T to denoise")
    denoising.add_argument("--steps", type=int, default=5, help="T, the number of steps")
    denoising.set_defaults(draw=lambda args: plot_denoising(args.out, args.x, args.steps))

    multimodal = commands.add_parser(
        "multimodal", help="several draws of p(x_0 | x_t) for each t, beside x_t"
    )
    multimodal.add_argument("checkpoint", help="of a DDGAN")
    multimodal.add_argument("--examples", type=int, default=3, help="how many x_0")
    multimodal.add_argument("--num", type=int, help="draws (3 of images, 100 of points)")
    multimodal.add_argument("--seed", type=int, default=0)
    multimodal.add_argument(
        "--from-samples",
        action="store_true",
        help="begin with samples of the model instead of its training data",
    )
    multimodal.add_argument(
        "--data",
        nargs="+",
        action=OptionsAction,
        default={},
        metavar="KEY=VALUE",
        help="arguments of the data set to change: root=/data",
    )
    multimodal.set_defaults(draw=draw_multimodal)

    paths = commands.add_parser(
        "paths", help="the reverse SDE's way to data against the straight path, with exact scores"
    )
    paths.add_argument("--num", type=int, default=8, help="how many ways")
    paths.add_argument("--seed", type=int, default=0)
    paths.set_defaults(draw=lambda args: plot_paths(args.out, args.num, args.seed))

    for command in (curves, digits, *latent, denoising, multimodal, paths):
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
    """Draw rows of images along a path of latents."""
    model = load_model(args.checkpoint)
    save_rows(args.images(model, args.rows, args.points, args.seed), args.out)


def draw_multimodal(args: argparse.Namespace) -> None:
    """Diffuse data, and draw what the model makes of it."""
    model = load_model(args.checkpoint)
    if args.examples < 1:
        raise UserError(f"--examples is {args.examples}; expected at least 1")
    samples = (
        model.sample(args.examples, seed=args.seed) if args.from_samples else training_data(args)
    )
    num = args.num or (3 if samples.dtype == torch.uint8 else 100)
    plot_multimodal(model, samples, num, args.out, args.seed)


def training_data(args: argparse.Namespace) -> torch.Tensor:
    """Return items of the data that a checkpoint was trained on."""
    loader = read_weights(args.checkpoint)[0].get("train_dataloader")
    if loader is None:
        raise UserError(f"{args.checkpoint} names no training data; add --from-samples")
    check_trusted_types(loader, "train_dataloader")
    dataset = DATASETS.build({**loader["dataset"], **args.data})
    first = args.seed * args.examples
    items = [dataset[(first + i) % len(dataset)]["x"] for i in range(args.examples)]
    return torch.stack(items)


def main() -> None:
    """Draw what is asked for."""
    args = parse_args()
    set_up_cpu()
    with user_errors():
        args.draw(args)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()

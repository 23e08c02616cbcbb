"""Draw figures of runs and models: ``python tools/visualize.py curves work_dirs/quickstart``."""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
from pathlib import Path

import torch

from ddgan.apis import auto_batch_size, load_model
from ddgan.data import Gaussians25, StackedDigits
from ddgan.engine.checkpoint import read_weights
from ddgan.engine.config import check_trusted_types
from ddgan.errors import UserError
from ddgan.evaluation import digit_classifier, record_path
from ddgan.evaluation.records import read_record
from ddgan.registry import DATASETS
from ddgan.utils.cli import add_options, progress_bar, running
from ddgan.visualization import (
    ScatterPanel,
    along_path,
    between_latents,
    between_noise,
    plot_curves,
    plot_denoising,
    plot_digits,
    plot_multimodal,
    plot_paths,
    plot_scatter_comparison,
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
    parser = argparse.ArgumentParser(description="Draw figures of runs and models.")
    commands = parser.add_subparsers(required=True, metavar="FIGURE")

    def command(name: str, draw, text: str, *options: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.set_defaults(draw=draw)
        add_options(added, *options)
        added.add_argument("--out", required=True, help="the PNG to write")
        return added

    model = ("checkpoint", "--seed", "--device", "--import")
    curves = command("curves", draw_curves, "losses, per time step too, and gradient norms")
    curves.add_argument("run", help="folder of a training run")

    digits = command("digits", draw_digits, "stacked digits next to their three channels", *model)
    digits.add_argument("--num", type=int, default=40, help="how many samples (default 40)")

    points = command(
        "points",
        draw_points,
        "samples of several models on the 25-Gaussians next to the data, with the scores that "
        "tools/test.py --metric modes recorded (DDGAN, Fig. 6)",
        *model[1:],
    )
    points.add_argument("checkpoints", nargs="+")
    points.add_argument("--names", nargs="+", help="titles; by default the runs' folders")
    points.add_argument("--num", type=int, default=2_500, help="points per panel (default 2500)")

    for name, (text, _) in LATENT.items():
        latent = command(name, draw_latents, f"SPI-GAN: {text}", *model)
        latent.add_argument("--rows", type=int, default=8, help="how many samples or pairs")
        latent.add_argument("--points", type=int, default=8, help="images per row")
        latent.set_defaults(study=name)

    denoising = command(
        "denoising-1d", draw_denoising, "diffused 1-D data and its exact denoising distributions"
    )
    denoising.add_argument("--x", type=float, default=0.4, help="the value of x_T to denoise")
    denoising.add_argument("--steps", type=int, default=5, help="T, the number of steps")

    multimodal = command(
        "multimodal", draw_multimodal, "DDGAN: draws of p(x_0 | x_t) for each t", *model, "--data"
    )
    multimodal.add_argument("--examples", type=int, default=3, help="how many x_0")
    multimodal.add_argument("--num", type=int, help="draws (3 of images, 100 of points)")
    multimodal.add_argument(
        "--from-samples",
        action="store_true",
        help="begin with samples of the model instead of its training data",
    )

    paths = command(
        "paths", draw_paths, "the reverse SDE's path against the straight one", "--seed"
    )
    paths.add_argument("--num", type=int, default=8, help="how many paths")
    return parser.parse_args()


def draw_curves(args: argparse.Namespace) -> None:
    """Draw the curves of a run."""
    plot_curves(args.run, args.out)


def draw_denoising(args: argparse.Namespace) -> None:
    """Draw DDGAN's Fig. 2."""
    plot_denoising(args.out, args.x, args.steps)


def draw_paths(args: argparse.Namespace) -> None:
    """Draw SPI-GAN's Fig. 4."""
    plot_paths(args.out, args.num, args.seed)


def draw_digits(args: argparse.Namespace) -> None:
    """Sample digits, classify them, and draw them below real ones."""
    samples = load_model(args.checkpoint, args.device).sample(args.num, seed=args.seed)
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
    model = load_model(args.checkpoint, args.device)
    _, study = LATENT[args.study]
    save_rows(study(model, args.rows, args.points, args.seed), args.out)


def draw_points(args: argparse.Namespace) -> None:
    """Draw a panel of points for each model next to the data."""
    names = args.names or [Path(checkpoint).parent.name for checkpoint in args.checkpoints]
    if len(names) != len(args.checkpoints):
        raise UserError(f"--names has {len(names)} for {len(args.checkpoints)} checkpoints")
    data = Gaussians25(num_samples=args.num)
    points = torch.stack([data[index]["x"] for index in range(args.num)])
    panels, notes = [ScatterPanel("Data", points.numpy())], {}
    for name, checkpoint in zip(names, args.checkpoints, strict=True):
        panel, notes[name] = points_panel(name, checkpoint, args)
        panels.append(panel)
    if len(set(notes.values())) > 1:
        scores = "; ".join(f"{name} {note}" for name, note in notes.items())
    else:
        scores = notes[names[0]]
    note = f"{args.num:,} points are drawn per panel; scores are of {scores}"
    plot_scatter_comparison(panels, data.centres, data.std, args.out, note)


def points_panel(name: str, checkpoint: str, args: argparse.Namespace) -> tuple[ScatterPanel, str]:
    """Sample a model; returns its panel and how its scores were measured."""
    path = record_path(checkpoint, "modes")
    record = read_record(path)
    if record is None:
        raise UserError(
            f"there is no record {path}; write it first: python tools/test.py {checkpoint} "
            "--metric modes"
        )
    model = load_model(checkpoint, args.device)
    if model.data_shape != (2,):
        raise UserError(f"{checkpoint} draws samples of shape {model.data_shape}; expected (2,)")
    with progress_bar(name, args.num) as advance:
        batch_size = auto_batch_size(model)
        points = model.sample(args.num, args.seed, batch_size=batch_size, progress=advance)
    values, protocol = record["values"], record["protocol"]
    nfe = protocol.get("nfe", model.num_evaluations)
    panel = ScatterPanel(
        name, points.cpu().numpy(), values["modes"], values.get("high_quality"), nfe
    )
    return panel, f"{protocol.get('num')} samples after {protocol.get('iteration')} iterations"


def draw_multimodal(args: argparse.Namespace) -> None:
    """Diffuse data, and draw what the model makes of it."""
    model = load_model(args.checkpoint, args.device)
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
    with running(args):
        args.draw(args)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()

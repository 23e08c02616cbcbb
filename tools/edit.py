"""Images from strokes: ``python tools/edit.py CHECKPOINT STROKES.png --out DIR``."""

import ddgan.utils.threads

import argparse
import json
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import ddgan
from ddgan.apis import auto_batch_size, edit, inpaint, load_model
from ddgan.data.decoding import fit_image, fit_mask, open_image
from ddgan.editing import check_editable
from ddgan.errors import UserError
from ddgan.models import GenerativeModel
from ddgan.utils.cli import add_options, at_least, progress_bar, running
from ddgan.visualization import save_samples, written_samples


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Draw images that follow a stroke painting, or fill in a part of an image."
    )
    add_options(parser, "checkpoint")
    parser.add_argument("image", help="the painting: PNG, JPEG, WebP, BMP or TIFF")
    parser.add_argument(
        "--start-step",
        type=int,
        help="step t in 1 to T to which the painting is diffused: the lower, the more closely it "
        "is followed (default T / 2; with --mask the part to be drawn begins as noise instead)",
    )
    parser.add_argument(
        "--mask", help="an image as large as the painting, white where images are to be drawn"
    )
    parser.add_argument(
        "--resample",
        type=int,
        default=1,
        help="with --mask: how often each step is done; more fits the parts together better",
    )
    parser.add_argument("--num", type=at_least(1), default=8, help="how many images (default 8)")
    parser.add_argument("--out", required=True, help="an empty or new folder")
    add_options(parser, "--seed", "--batch-size", "--device", "--import")
    return parser.parse_args()


def read_inputs(args: argparse.Namespace, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Return painting and mask in the model's shape, saying so where that changes their size."""
    _, height, width = shape
    image = open_image(Path(args.image), channels=shape[0])
    if image.size != (width, height):
        print(
            f"{args.image} is {image.width}x{image.height}: its centre is scaled to the model's "
            f"{width}x{height}"
        )
    if args.mask is None:
        return fit_image(image, shape), None
    mask = open_image(Path(args.mask), channels=1)
    if mask.size != image.size:
        raise UserError(
            f"--mask {args.mask} is {mask.width}x{mask.height} and {args.image} "
            f"{image.width}x{image.height}; expected the same size"
        )
    return fit_image(image, shape), fit_mask(mask, shape)


def draw(
    model: GenerativeModel, args: argparse.Namespace, image: Tensor, mask: Tensor | None
) -> Tensor:
    """Return the results, in batches that fit into memory."""
    batch_size = args.batch_size or auto_batch_size(model)
    batches = []
    with progress_bar("editing", args.num) as advance:
        for start in range(0, args.num, batch_size):
            count = min(batch_size, args.num - start)
            noise = {"num": count, "seed": args.seed, "first_index": start, "batch_size": count}
            if mask is None:
                part = edit(model, image, args.start_step, **noise)
            else:
                part = inpaint(
                    model,
                    image,
                    mask,
                    start_step=args.start_step,
                    resample=args.resample,
                    **noise,
                )
            batches.append(part.cpu())
            advance(count)
    return torch.cat(batches)


def save(
    args: argparse.Namespace, image: Tensor, mask: Tensor | None, results: Tensor, seconds: float
) -> None:
    """Write the single images, the grid that begins with the painting, and the settings."""
    out = Path(args.out)
    with written_samples(out) as add_samples:
        add_samples(results)
    first = [image]
    if mask is not None:
        Image.fromarray(mask.numpy()).save(out / "mask.png")
        # What is to be drawn is grey in the grid.
        first.append(torch.where(mask, torch.full_like(image, 128), image))
    save_samples(torch.cat([torch.stack(first), results]), out / "grid.png")
    names = ("start_step", "num", "seed", "resample")
    settings = {
        "checkpoint": Path(args.checkpoint).name,
        "image": Path(args.image).name,
        "mask": None if args.mask is None else Path(args.mask).name,
        **{name: getattr(args, name) for name in names},
        "seconds": round(seconds, 3),
        "ddgan": ddgan.__version__,
    }
    (out / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Read, draw and write."""
    args = parse_args()
    with running(args):
        out = Path(args.out)
        if args.resample != 1 and args.mask is None:
            raise UserError(f"--resample is {args.resample}; it is of use with --mask alone")
        if out.suffix or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
            raise UserError(
                f"--out {out} is not a new or empty folder; choose another name, without an ending"
            )
        model = load_model(args.checkpoint, args.device)
        check_editable(model)
        if args.start_step is None and args.mask is None:
            args.start_step = max(1, model.num_evaluations // 2)
        image, mask = read_inputs(args, model.data_shape)
        started = time.perf_counter()
        results = draw(model, args, image, mask)
        save(args, image, mask, results, time.perf_counter() - started)
        print(f"{args.num} images of seed {args.seed} are in {out}, all of them in grid.png")


if __name__ == "__main__":
    main()

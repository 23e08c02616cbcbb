"""Bring images into the form that training reads.

``python tools/prepare_data.py images/ data/faces256.zip --size 256``
"""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
import os
from pathlib import Path

from ddgan.data.prepare import FORMATS, Prepared, prepare
from ddgan.data.sources import open_source
from ddgan.data.transforms import RESAMPLING
from ddgan.errors import UserError
from ddgan.utils.cli import progress_bar, user_errors

NAMED = 10


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Crop, scale and store images. After an interruption the same command "
        "continues. SRC is only read.",
    )
    parser.add_argument(
        "source", metavar="SRC", help="a folder, zip, LMDB, .npy, CIFAR-10's or MNIST's folder"
    )
    parser.add_argument("destination", metavar="DST", help="ends in .zip, .lmdb or .npy")
    parser.add_argument("--size", type=int, help="pixels of the shorter side; default: as it is")
    parser.add_argument(
        "--crop", choices=("centre", "none"), default="centre", help="to squares (default) or not"
    )
    parser.add_argument("--resample", choices=sorted(RESAMPLING), default="lanczos")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="1: grey")
    parser.add_argument(
        "--format", choices=sorted(FORMATS), help="default: what DST's ending says; memmap is .npy"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--limit", type=int, help="only the first images")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="CIFAR, MNIST")
    parser.add_argument(
        "--stacked", type=int, metavar="N", help="MNIST: N triples of digits as red, green, blue"
    )
    args = parser.parse_args()
    for name in ("size", "limit", "stacked"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, expected at least 1")
    if args.workers < 0:
        parser.error(f"--workers is {args.workers}, expected at least 0")
    return args


def main() -> None:
    """Prepare the images and print what was made and what was left out."""
    args = parse_args()
    with user_errors():
        source, destination = Path(args.source), Path(args.destination)
        form = choose_format(destination, args.format)
        if source.is_dir() and source.resolve() in destination.resolve().parents:
            raise UserError(f"{destination} lies in {source}, which is only read; move DST out")
        pipeline = [{"type": "CentreCrop"}] if args.crop == "centre" else []
        if args.size is not None:
            pipeline.append({"type": "Resize", "size": args.size, "resample": args.resample})
        square = args.size if args.crop == "centre" else None
        images = open_source(
            source,
            args.split,
            args.stacked,
            pipeline=pipeline,
            image_size=square,
            channels=args.channels,
        )
        links = getattr(images, "num_links", 0)
        followed = f", with {links} linked folder{'s' * (links > 1)}" if links else ""
        print(f"{len(images)} images in {images.name}{followed}")
        made = prepare(images, destination, form, progress_bar, args.workers, args.limit)
        print(summary(made))
        if images.listing is not None and images.listing.left_out:
            print(images.listing.summary())


def choose_format(destination: Path, form: str | None) -> str:
    """The format that the ending of DST and ``--format`` agree on; raises UserError."""
    endings = {handler.suffix: name for name, handler in FORMATS.items()}
    by_name = endings.get(destination.suffix)
    if by_name is None or form not in (None, by_name):
        wanted = f"{FORMATS[form].suffix}, for --format {form}" if form else " ".join(endings)
        raise UserError(f"DST is {destination}; expected a name that ends in {wanted}")
    return by_name


def summary(made: Prepared) -> str:
    """What was made, and the first of the images that were left out."""
    files = made.path.rglob("*") if made.path.is_dir() else [made.path]
    size = sum(file.stat().st_size for file in files) / 2**20
    lines = [
        f"{made.path}: {made.count} images {'x'.join(map(str, made.shape))}, {size:.1f} MiB, "
        f"verified, sha256 {made.digest[:16]}"
    ]
    if made.resumed:
        lines.insert(0, f"{made.resumed} were there from before")
    if made.skipped:
        lines.append(f"left out, unreadable: {len(made.skipped)}")
        lines += [f"  {name}: {reason}" for name, reason in made.skipped[:NAMED]]
        if len(made.skipped) > NAMED:
            lines.append(f"  ... all of them are in {made.path}.json")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

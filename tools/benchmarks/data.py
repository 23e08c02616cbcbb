"""Reading images in each stored form, and how long a train step waits for them."""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ddgan.data import ImageFolder, ImageLMDB, ImageMemmap, ImageZip, ResumableSampler
from ddgan.data.decoding import to_image
from ddgan.data.prepare import prepare
from ddgan.data.sources import open_source

ENDINGS = {"zip": ("zip", ImageZip), "lmdb": ("lmdb", ImageLMDB), "memmap": ("npy", ImageMemmap)}
FORMS = ("folder", *ENDINGS)
WARM_UP = 3


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--source", help="images to use, as of prepare_data.py; default: made up")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--num", type=int, default=1_000, help="how many images")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--formats", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument(
        "--step-ms", type=float, default=50.0, help="how long the device computes on a batch"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Loading: images/s of each stored form, and how long a train step waits.

    The same images are prepared in each form and read in training's random order. Waiting is
    measured with a device that computes for ``--step-ms`` and leaves the processor alone, as a GPU
    does.
    """
    with tempfile.TemporaryDirectory() as folder:
        stores = prepare_all(Path(folder), options)
        print(
            f"{len(stores['folder'])} images of {options.size} pixels, batches of "
            f"{options.batch_size}; a step takes {options.step_ms:g} ms"
        )
        print(f"{'form':8} {'workers':>7} {'images/s':>10} {'ms/batch':>9} {'waiting':>8}")
        rows = []
        for form in options.formats:
            for workers in options.workers:
                speed, waiting = measure_form(stores[form], workers, options)
                row = {"form": form, "workers": workers}
                rows.append({**row, "images_per_second": speed, "waiting": waiting})
                per_batch = 1e3 * options.batch_size / speed
                print(
                    f"{form:8} {workers:7} {speed:10.0f} {per_batch:9.2f} {waiting:8.1%}",
                    flush=True,
                )
    settings = {key: getattr(options, key) for key in ("size", "batch_size", "step_ms")}
    return {**settings, "rows": rows}


def prepare_all(folder: Path, options: argparse.Namespace) -> dict[str, Dataset]:
    """Data sets of the same images in each form."""
    root = folder / "folder"
    root.mkdir()
    if options.source:
        pipeline = [{"type": "CentreCrop"}, {"type": "Resize", "size": options.size}]
        source = open_source(options.source, pipeline, options.size)
        images = (to_image(source[i]["x"]) for i in range(min(options.num, len(source))))
    else:
        images = (made_up(i, options.size) for i in range(options.num))
    for i, image in enumerate(images):
        image.save(root / f"{i:06d}.png")
    stores: dict[str, Dataset] = {"folder": ImageFolder(root, image_size=options.size)}
    for form, (ending, dataset) in ENDINGS.items():
        if form in options.formats:
            prepare(open_source(root), folder / f"a.{ending}", form, no_progress)
            stores[form] = dataset(folder / f"a.{ending}", image_size=options.size)
    return stores


def no_progress(label: str, total: int) -> nullcontext:
    """Show no progress."""
    return nullcontext(lambda count: None)


def made_up(seed: int, size: int) -> Image.Image:
    """An image that compresses about as well as a photograph: noise over soft colours."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    values = np.asarray(soft.resize((size, size), Image.Resampling.BICUBIC), dtype=np.int64)
    noisy = values + rng.integers(-6, 7, values.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def measure_form(
    dataset: Dataset, workers: int, options: argparse.Namespace
) -> tuple[float, float]:
    """Images/s of a loader alone, and the share of time that steps wait for it."""
    batches = endless(dataset, workers, options)
    for _ in range(WARM_UP):
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < options.seconds:
        count += len(next(batches)["x"])
    speed = count / (time.perf_counter() - start)
    waited = busy = 0.0
    while waited + busy < options.seconds:
        asked = time.perf_counter()
        next(batches)
        got = time.perf_counter()
        time.sleep(options.step_ms / 1e3)
        waited += got - asked
        busy += time.perf_counter() - got
    return speed, waited / (waited + busy)


def endless(dataset: Dataset, workers: int, options: argparse.Namespace) -> Iterator[dict]:
    """Batches as in training."""
    return iter(
        DataLoader(
            dataset,
            options.batch_size,
            sampler=ResumableSampler(dataset, seed=0),
            num_workers=workers,
            pin_memory=options.device == "cuda",
        )
    )

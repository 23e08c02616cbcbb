"""Writing samples to files: a grid, a folder or zip of PNGs, or an npz."""

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddgan.errors import UserError
from ddgan.utils.files import temporary_path, write_atomically
from ddgan.visualization.grid import save_samples

# Takes the next batch: (B, C, H, W) uint8 images or (B, D) points.
AddSamples = Callable[[Tensor], None]


@contextmanager
def written_samples(path: str | Path, first_index: int = 0) -> Iterator[AddSamples]:
    """Yield a function that takes batches of samples in order and writes them to ``path``.

    A .png is a grid of images or a plot of points, an .npz one array ``arr_0`` ((N, H, W, C) uint8
    or (N, D) float32), a .zip or a folder (a path without suffix) holds a PNG for each image, named
    by its index. A file appears when the block ends without an error. Raises UserError for another
    suffix, a folder that is not empty, or a place that cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--out {path}: folder {path.parent} cannot be written to")
    writers = {".png": _whole, ".npz": _whole, ".zip": _zip, "": _folder}
    if path.suffix not in writers:
        raise UserError(f"--out {path}: expected a .png, .npz or .zip file, or a folder")
    with writers[path.suffix](path, first_index) as add:
        yield add


@contextmanager
def _whole(path: Path, first_index: int) -> Iterator[AddSamples]:
    batches: list[Tensor] = []
    yield lambda samples: batches.append(samples.cpu())
    samples = torch.cat(batches)
    if path.suffix == ".png":
        save_samples(samples, path)
    else:
        array = samples.numpy()
        content = io.BytesIO()
        np.savez(content, array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)
        write_atomically(path, content.getvalue())


@contextmanager
def _folder(path: Path, first_index: int) -> Iterator[AddSamples]:
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {path} is a file; choose another name for the folder")
    if path.exists() and any(path.iterdir()):
        raise UserError(f"folder {path} is not empty; choose another, or remove it first")
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield _numbered(lambda name, png: (path / name).write_bytes(png), first_index)
    finally:
        if not any(path.iterdir()):
            path.rmdir()


@contextmanager
def _zip(path: Path, first_index: int) -> Iterator[AddSamples]:
    temporary = temporary_path(path)
    try:
        # PNGs do not shrink further.
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            yield _numbered(archive.writestr, first_index)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _numbered(write: Callable[[str, bytes], object], first_index: int) -> AddSamples:
    """A function that writes each image of a batch as a PNG named by its index."""
    index = first_index

    def add(samples: Tensor) -> None:
        nonlocal index
        if samples.ndim != 4:
            raise UserError("samples that are not images go to a .npz or .png file")
        for image in samples.cpu().permute(0, 2, 3, 1).numpy():
            content = io.BytesIO()
            pixels = image.squeeze(-1) if image.shape[-1] == 1 else image
            Image.fromarray(pixels).save(content, format="PNG")
            write(f"{index:06d}.png", content.getvalue())
            index += 1

    return add

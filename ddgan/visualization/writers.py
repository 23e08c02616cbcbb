"""Writing samples to files: a grid, a folder or zip of PNGs, or an npz."""

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddgan.errors import UserError
from ddgan.visualization.grid import save_samples


class SampleWriter(Protocol):
    """Takes batches of samples in order; the result is complete only after ``close``."""

    def add(self, samples: Tensor) -> None:
        """Take the next batch: (B, C, H, W) uint8 images or (B, D) points."""

    def close(self) -> None:
        """Finish the output."""

    def discard(self) -> None:
        """Remove what an interrupted output has left, but for complete files."""


class _Whole:
    """Keeps all samples and writes one file at the end, in one step."""

    def __init__(self, path: Path):
        self.path = path
        self._batches: list[Tensor] = []

    def add(self, samples: Tensor) -> None:
        self._batches.append(samples.cpu())

    def close(self) -> None:
        temporary = self.path.with_name(f".{os.getpid()}.{self.path.name}")
        try:
            self.write(torch.cat(self._batches), temporary)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def discard(self) -> None:
        self._batches.clear()


class GridWriter(_Whole):
    """One PNG: a grid of images, or a plot of points."""

    def write(self, samples: Tensor, path: Path) -> None:
        """Write the image."""
        save_samples(samples, path)


class NpzWriter(_Whole):
    """An npz with one array ``arr_0``: (N, H, W, C) uint8, or (N, D) float32 for points."""

    def write(self, samples: Tensor, path: Path) -> None:
        """Write the array."""
        array = samples.numpy()
        with open(path, "wb") as file:
            np.savez(file, array.transpose(0, 2, 3, 1) if array.ndim == 4 else array)


class FolderWriter:
    """A folder of PNGs named by the index of the sample."""

    def __init__(self, path: Path, first_index: int = 0):
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {path} is a file; choose another name for the folder")
        if path.exists() and any(path.iterdir()):
            raise UserError(f"folder {path} is not empty; choose another, or remove it first")
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._next = first_index

    def add(self, samples: Tensor) -> None:
        """Write one file for each image."""
        for png in _as_pngs(samples):
            (self.path / f"{self._next:06d}.png").write_bytes(png)
            self._next += 1

    def close(self) -> None:
        """Nothing is left to do: each file is complete."""

    def discard(self) -> None:
        """Remove the folder if nothing was written to it."""
        if not any(self.path.iterdir()):
            self.path.rmdir()


class ZipWriter:
    """A zip of PNGs named by the index of the sample, stored without further compression."""

    def __init__(self, path: Path, first_index: int = 0):
        self.path = path
        self._temporary = path.with_name(f".{os.getpid()}.{path.name}")
        self._archive = zipfile.ZipFile(self._temporary, "w", zipfile.ZIP_STORED)
        self._next = first_index

    def add(self, samples: Tensor) -> None:
        """Append the images."""
        for png in _as_pngs(samples):
            self._archive.writestr(f"{self._next:06d}.png", png)
            self._next += 1

    def close(self) -> None:
        """Finish the archive and give it its name."""
        self._archive.close()
        os.replace(self._temporary, self.path)

    def discard(self) -> None:
        """Remove the unfinished archive."""
        self._archive.close()
        self._temporary.unlink(missing_ok=True)


@contextmanager
def written_samples(path: str | Path, first_index: int = 0) -> Iterator[SampleWriter]:
    """Open the writer for a path; at the end finish the output, or discard it after an error."""
    writer = open_writer(path, first_index)
    try:
        yield writer
        writer.close()
    except BaseException:
        writer.discard()
        raise


def open_writer(path: str | Path, first_index: int = 0) -> SampleWriter:
    """Return the writer for a path: .png, .npz, .zip, or a folder if it has no suffix.

    Raises UserError for another suffix, a folder in use or a place that cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--out {path}: folder {path.parent} cannot be written to")
    if path.suffix == ".png":
        return GridWriter(path)
    if path.suffix == ".npz":
        return NpzWriter(path)
    if path.suffix == ".zip":
        return ZipWriter(path, first_index)
    if path.suffix:
        raise UserError(f"--out {path}: expected a .png, .npz or .zip file, or a folder")
    return FolderWriter(path, first_index)


def _as_pngs(samples: Tensor) -> list[bytes]:
    if samples.ndim != 4:
        raise UserError("samples that are not images go to a .npz or .png file")
    pngs = []
    for image in samples.cpu().permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            buffer, format="PNG"
        )
        pngs.append(buffer.getvalue())
    return pngs

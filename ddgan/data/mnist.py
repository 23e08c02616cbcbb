"""The IDX files of MNIST and of the data sets made in its form."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ddgan.data.storage import patiently, read_file

_MAX_BYTES = 1 << 31


def load_mnist_images(root: str | Path, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """MNIST, or a set in its form: images uint8 (N, 28, 28) and labels (N,) int64 in 0..9.

    ``root`` holds the four published IDX files, plain or ``.gz``; torchvision's ``MNIST/raw``
    below it is found as well. ``split`` is ``"train"`` or ``"test"``. Raises FileNotFoundError
    for a missing file, ValueError for a damaged one.
    """
    prefixes = {"train": "train", "test": "t10k"}
    if split not in prefixes:
        raise ValueError(f"MNIST: split is {split!r}, expected 'train' or 'test'")
    images = read_idx(_find_idx(Path(root), f"{prefixes[split]}-images", 3), ndim=3)
    labels = read_idx(_find_idx(Path(root), f"{prefixes[split]}-labels", 1), ndim=1)
    if not len(images) or len(images) != len(labels) or labels.max() > 9:
        raise ValueError(
            f"MNIST: {root} has {len(images)} images and {len(labels)} labels for {split!r}, "
            "expected one label of 0..9 for each of at least one image"
        )
    return images, labels.astype(np.int64)


def has_mnist_files(root: str | Path) -> bool:
    """Whether the files that ``load_mnist_images`` reads are below ``root``."""
    return any(_idx_candidates(Path(root), "train-images", 3))


def read_idx(path: str | Path, ndim: int) -> np.ndarray:
    """The uint8 array of ``ndim`` dimensions in an IDX file, plain or gzip-compressed.

    Raises ValueError where the file is damaged, or has another element type or dimension.
    """
    content = io.BytesIO(read_file(Path(path), _MAX_BYTES))
    compressed = content.getvalue()[:2] == b"\x1f\x8b"
    try:
        return _parse(gzip.GzipFile(fileobj=content) if compressed else content, ndim)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is not an IDX file of {ndim}-dimensional bytes: {error}; "
            "get the file again, and check that it was transferred whole"
        ) from error


def _parse(file: BinaryIO, ndim: int) -> np.ndarray:
    magic = file.read(4)
    # Two zero bytes, the element type (8: unsigned byte), the number of dimensions.
    if magic != bytes((0, 0, 8, ndim)):
        raise ValueError(f"it begins with {magic.hex()}, expected 000008{ndim:02x}")
    header = file.read(4 * ndim)
    if len(header) != 4 * ndim:
        raise ValueError("it ends within the header")
    shape = tuple(np.frombuffer(header, dtype=">u4").tolist())
    # Python integers: the product of damaged sizes does not wrap around.
    size = 1
    for length in shape:
        size *= length
    if size > _MAX_BYTES:
        raise ValueError(f"its header declares {shape}, which is over {_MAX_BYTES} bytes")
    # One byte more than declared shows surplus data, without unpacking all of it.
    data = file.read(size + 1)
    if len(data) != size:
        found = "more" if len(data) > size else str(len(data))
        raise ValueError(f"its header declares {shape}, {size} bytes, but it holds {found}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _idx_candidates(root: Path, stem: str, ndim: int) -> Iterator[Path]:
    folders = (root, root / "raw", root / "MNIST" / "raw")
    names = [f"{stem}{joint}idx{ndim}-ubyte{end}" for joint in "-." for end in ("", ".gz")]
    return (
        path
        for path in (f / name for f in folders for name in names)
        if patiently(path.is_file, path)
    )


def _find_idx(root: Path, stem: str, ndim: int) -> Path:
    for path in _idx_candidates(root, stem, ndim):
        return path
    raise FileNotFoundError(
        f"MNIST: no {stem}-idx{ndim}-ubyte (or .gz) in {root}. Get MNIST's four files, for example "
        "with 'bash tools/fetch_data.sh mnist' or torchvision.datasets.MNIST(root, download=True), "
        "and set root to their folder"
    )

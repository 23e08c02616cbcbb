"""The IDX files of MNIST and of the data sets made in its form."""

import gzip
import zlib
from pathlib import Path

import numpy as np

_MAX_BYTES = 1 << 31


def read_idx(path: str | Path, ndim: int) -> np.ndarray:
    """The uint8 array of ``ndim`` dimensions in an IDX file, plain or gzip-compressed.

    Raises ValueError where the file is damaged, or has another element type or dimension.
    """
    path = Path(path)
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            return _parse(file, ndim)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is not an IDX file of {ndim}-dimensional bytes: {error}; "
            "get the file again, and check that it was transferred whole"
        ) from error


def _parse(file, ndim: int) -> np.ndarray:
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

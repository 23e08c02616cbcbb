"""Images in one unencoded file, a NumPy array: the fastest form for small ones."""

import hashlib
import io
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddgan.data.in_memory import BatchedDataset
from ddgan.data.labels import Entries
from ddgan.data.storage import PatientFile, StorageError, patiently, read_file
from ddgan.registry import DATASETS
from ddgan.utils.files import refusal

_CHUNK = 1 << 24
_MAX_LABEL_BYTES = 1 << 32


def labels_path(path: str | Path) -> Path:
    """Where the labels of the images in ``path`` are kept, if they have any."""
    return Path(path).with_suffix(".labels.npy")


@DATASETS.register_module()
class ImageMemmap(BatchedDataset):
    """The images of a ``.npy`` file, uint8 (N, C, H, W) with C = 1 or 3, fetched batch by batch.

    The file may be larger than the memory: what is asked for is read, and the system keeps it for
    all processes. Integer labels (N,) are taken from ``NAME.labels.npy`` next to it, where that
    exists. ``image_size`` and ``num_images`` are checked, or taken from the file; of more images
    only the first ``num_images`` are used. No pickled content is read. Raises FileNotFoundError
    for a missing file, ValueError for one of another form, size or length, StorageError when the
    storage is away.
    """

    def __init__(
        self, path: str | Path, image_size: int | None = None, num_images: int | None = None
    ) -> None:
        self.path = Path(path)
        if not patiently(self.path.is_file, self.path):
            raise FileNotFoundError(
                f"ImageMemmap: {self.path} is not a file; set path to a .npy file that "
                "'python tools/prepare_data.py SRC DST.npy' has made"
            )
        self._file = PatientFile(self.path)
        (stored, *shape), self._start = _read_header(self.path)
        self.image_shape = tuple(shape)
        if image_size is not None and self.image_shape[1:] != (image_size, image_size):
            raise ValueError(
                f"ImageMemmap: {self.path} has images of {self.image_shape[2]}x"
                f"{self.image_shape[1]} (width x height), but image_size={image_size}; prepare the "
                "images at that size, or correct image_size"
            )
        super().__init__(stored if num_images is None else num_images)
        if self.num_samples > stored:
            raise ValueError(
                f"ImageMemmap: {self.path} has {stored} images, but num_images={num_images}; "
                "expected no more than there are"
            )
        self.labels = self._read_labels(stored)
        self.name = f"memmap {self.path}"

    def _batch(self, indices: np.ndarray) -> tuple[Tensor, np.ndarray | None]:
        labels = None if self.labels is None else self.labels[indices]
        images = np.empty((len(indices), *self.image_shape), dtype=np.uint8)
        size = math.prod(self.image_shape)
        offsets = self._start + indices * size
        self._file.read_rows(offsets.tolist(), images.reshape(len(indices), size))
        return torch.from_numpy(images), labels

    def digest(self) -> str:
        """A SHA-256 string of the images and labels; it reads all of them."""
        shape = (len(self), *self.image_shape)
        digest = hashlib.sha256(str(shape).encode())
        position, end = self._start, self._start + math.prod(shape)
        while content := self._file.read_at(position, min(_CHUNK, end - position)):
            digest.update(content)
            position += len(content)
        digest.update(b"" if self.labels is None else self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def _read_labels(self, stored: int) -> np.ndarray | None:
        path = labels_path(self.path)
        if not patiently(path.is_file, path):
            return None
        try:
            labels = np.load(io.BytesIO(read_file(path, _MAX_LABEL_BYTES)), allow_pickle=False)
        except StorageError:
            raise
        # NumPy raises nearly anything for damaged files.
        except Exception as error:
            raise ValueError(
                f"ImageMemmap: {path} cannot be read ({refusal(error)}); remove or repair it"
            ) from error
        if getattr(labels, "shape", None) != (stored,) or not np.issubdtype(
            labels.dtype, np.integer
        ):
            raise ValueError(
                f"ImageMemmap: {path} holds {_describe(labels)}, expected one integer for "
                f"each of the {stored} images; remove or repair it"
            )
        return labels[: len(self)].astype(np.int64)


def _read_header(path: Path) -> tuple[tuple[int, ...], int]:
    """The shape of the images in a ``.npy`` file, and where the first begins."""
    try:
        # Only its length is compared with the header; no page of the map is touched.
        images = patiently(lambda: np.load(path, mmap_mode="r", allow_pickle=False), path)
    except StorageError:
        raise
    # NumPy raises nearly anything for damaged files.
    except Exception as error:
        raise ValueError(
            f"ImageMemmap: {path} cannot be read as a .npy file ({refusal(error)}); prepare it "
            "again"
        ) from error
    # A file of several arrays (.npz) is no array.
    shape = getattr(images, "shape", ())
    well_formed = len(shape) == 4 and shape[1] in (1, 3) and images.dtype == np.uint8
    if not well_formed or not images.flags.c_contiguous or 0 in shape:
        raise ValueError(
            f"ImageMemmap: {path} holds {_describe(images)}, expected uint8 images (N, C, H, W) in "
            "C order with C = 1 or 3"
        )
    return shape, images.offset


def _describe(array: object) -> str:
    kind = type(array).__name__
    return f"{getattr(array, 'dtype', kind)} {getattr(array, 'shape', '')}"


def encode_for_memmap(x: Tensor) -> bytes:
    """The raw values (C, H, W)."""
    return x.contiguous().numpy().tobytes()


def write_memmap(
    path: Path, entries: Entries, count: int, shape: tuple[int, ...], size: int
) -> None:
    """Store one uint8 array (N, C, H, W), and one of the labels next to it if there are any."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    labels = []
    # Not mapped: on a full disk, writing to a mapped page kills the process.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for content, label in entries:
            file.write(content)
            labels.append(label)
    if labels[0] is not None:
        np.save(labels_path(path), np.array(labels, dtype=np.int64))

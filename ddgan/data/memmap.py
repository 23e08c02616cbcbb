"""Images in one unencoded file that is mapped into memory: the fastest form for small ones."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddgan.data.in_memory import BatchedDataset
from ddgan.registry import DATASETS
from ddgan.utils.files import sha256


def labels_path(path: str | Path) -> Path:
    """Where the labels of the images in ``path`` are kept, if they have any."""
    return Path(path).with_suffix(".labels.npy")


@DATASETS.register_module()
class ImageMemmap(BatchedDataset):
    """The images of a ``.npy`` file, uint8 (N, C, H, W) with C = 1 or 3, fetched batch by batch.

    The file is mapped, not read: it may be larger than the memory, and worker processes share its
    pages. Integer labels (N,) are taken from ``NAME.labels.npy`` beside it, where that exists.
    ``image_size`` and ``num_images`` are checked, or taken from the file; of more images only
    the first ``num_images`` are used. No pickled content is read. Raises FileNotFoundError for a
    missing file, ValueError for one of another form, size or length.
    """

    def __init__(
        self, path: str | Path, image_size: int | None = None, num_images: int | None = None
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"ImageMemmap: {self.path} is not a file; set path to a .npy file that "
                "'python tools/prepare_data.py SRC DST.npy' has made"
            )
        self._images = _map(self.path)
        self.image_shape = self._images.shape[1:]
        if image_size is not None and self.image_shape[1:] != (image_size, image_size):
            raise ValueError(
                f"ImageMemmap: {self.path} has images of {self.image_shape[2]}x"
                f"{self.image_shape[1]} (width x height), but image_size={image_size}; prepare the "
                "images at that size, or correct image_size"
            )
        stored = len(self._images)
        super().__init__(stored if num_images is None else num_images)
        if self.num_samples > stored:
            raise ValueError(
                f"ImageMemmap: {self.path} has {stored} images, but num_images={num_images}; "
                "expected no more than there are"
            )
        self.labels = self._read_labels(stored)
        self.name = f"memmap {self.path}"

    def __getstate__(self) -> dict:
        # Pickling a mapped array would copy all of it into each worker process.
        return {**self.__dict__, "_images": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _images=_map(state["path"]))

    def _batch(self, indices: np.ndarray) -> tuple[Tensor, np.ndarray | None]:
        labels = None if self.labels is None else self.labels[indices]
        return torch.from_numpy(self._images[indices]), labels

    def digest(self) -> str:
        """A SHA-256 string of the images and labels, all of which are read for it."""
        images = self._images[: len(self)]
        labels = b"" if self.labels is None else self.labels.astype("<i8").tobytes()
        return sha256(str(images.shape).encode(), images.data, labels)

    def _read_labels(self, stored: int) -> np.ndarray | None:
        path = labels_path(self.path)
        if not path.is_file():
            return None
        try:
            labels = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"ImageMemmap: {path} cannot be read ({error}); remove or repair it"
            ) from error
        if labels.shape != (stored,) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"ImageMemmap: {path} holds {labels.dtype} {labels.shape}, expected one integer "
                f"for each of the {stored} images; remove or repair it"
            )
        return labels[: len(self)].astype(np.int64)


def _map(path: Path) -> np.ndarray:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"ImageMemmap: {path} cannot be read as a .npy file ({error}); prepare it again"
        ) from error
    # A file of several arrays (.npz) is no array.
    shape = getattr(images, "shape", ())
    well_formed = len(shape) == 4 and shape[1] in (1, 3) and images.dtype == np.uint8
    if not well_formed or not images.flags.c_contiguous or 0 in shape:
        raise ValueError(
            f"ImageMemmap: {path} holds {getattr(images, 'dtype', type(images).__name__)} {shape}, "
            "expected uint8 images (N, C, H, W) in C order with C = 1 or 3"
        )
    # Without the subclass, whose indexing is slower.
    return np.asarray(images)

"""Data sets whose items are computed or copied from arrays in memory, a whole batch at a time."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class BatchedDataset(Dataset, ABC):
    """A data set that makes the items of a batch together; subclasses define ``_batch``.

    Attributes of every data set of the package: ``name``, ``image_shape`` ((C, H, W), or (2,) for
    points), and ``digest()``, a string that changes when the content does.
    """

    name: str
    image_shape: tuple[int, ...]

    def __init__(self, num_samples: int) -> None:
        if num_samples < 1:
            raise ValueError(
                f"{type(self).__name__}: num_samples is {num_samples}, expected at least 1"
            )
        self.num_samples = num_samples

    @abstractmethod
    def _batch(self, indices: np.ndarray) -> tuple[Tensor, list[int] | None]:
        """The data (B, ...) and the labels of int64 indices (B,)."""

    @abstractmethod
    def digest(self) -> str:
        """A SHA-256 string of the content."""

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        # The fetcher of torch's DataLoader calls this with the indices of a batch.
        array = np.asarray(indices, dtype=np.int64)
        if len(array) and (array.min() < 0 or array.max() >= len(self)):
            raise IndexError(f"{self.name}: an index of {indices} is outside 0..{len(self) - 1}")
        x, labels = self._batch(array)
        items = [{"x": row, "index": i} for row, i in zip(x.unbind(), array.tolist(), strict=True)]
        if labels is not None:
            for item, label in zip(items, labels, strict=True):
                item["label"] = label
        return items


class InMemoryImages(BatchedDataset):
    """Pictures held as one uint8 tensor (N, C, H, W), with optional integer labels (N,)."""

    def __init__(self, name: str, images: Tensor, labels: np.ndarray | None = None) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"{name}: images are {images.dtype} {tuple(images.shape)}, "
                "expected uint8 (N, C, H, W)"
            )
        super().__init__(len(images))
        self.name = name
        self.images = images
        self.labels = labels
        self.image_shape = tuple(images.shape[1:])

    def _batch(self, indices: np.ndarray) -> tuple[Tensor, list[int] | None]:
        labels = None if self.labels is None else self.labels[indices].tolist()
        # Several times as fast as indexing with a tensor.
        return self.images.index_select(0, torch.from_numpy(indices)), labels

    def digest(self) -> str:
        """A SHA-256 string of the pictures and labels."""
        labels = b"" if self.labels is None else np.asarray(self.labels, dtype="<i8").tobytes()
        return sha256_of(str(tuple(self.images.shape)).encode(), self.images.numpy().data, labels)


def sha256_of(*parts: bytes | memoryview) -> str:
    """The SHA-256 hex digest of the parts, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()

"""Data sets whose items are computed or copied from arrays in memory, a whole batch at a time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ddgan.utils.files import sha256


class Items(Sequence):
    """The items of a batch, dicts of a data set's values, kept together by their names.

    ``columns`` has a tensor for each name, whose i-th entry is that of item i. Taking the batch
    apart and stacking it again would cost more than computing it, where items are small.
    """

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["index"])

    def __getitem__(self, i: int) -> dict:
        values = {name: column[i] for name, column in self.columns.items()}
        return {name: v if name == "x" else int(v) for name, v in values.items()}


def collate(items: Sequence[dict]) -> dict[str, Tensor]:
    """Return the batch of some items: tensors with an entry for each."""
    return items.columns if isinstance(items, Items) else default_collate(items)


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
    def _batch(self, indices: np.ndarray) -> tuple[Tensor, np.ndarray | None]:
        """The data (B, ...) and the int64 labels of int64 indices (B,), in new memory."""

    @abstractmethod
    def digest(self) -> str:
        """A SHA-256 string of the content."""

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Items:
        # The fetcher of torch's DataLoader calls this with the indices of a batch.
        array = np.asarray(indices, dtype=np.int64)
        if len(array) and (array.min() < 0 or array.max() >= len(self)):
            raise IndexError(f"{self.name}: an index of {indices} is outside 0..{len(self) - 1}")
        x, labels = self._batch(array)
        columns = {"x": x, "index": torch.tensor(array)}
        if labels is not None:
            columns["label"] = torch.from_numpy(labels)
        return Items(columns)


class InMemoryImages(BatchedDataset):
    """Images held as one uint8 tensor (N, C, H, W), with optional integer labels (N,)."""

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

    def _batch(self, indices: np.ndarray) -> tuple[Tensor, np.ndarray | None]:
        labels = None if self.labels is None else self.labels[indices].astype(np.int64)
        # Several times as fast as indexing with a tensor.
        return self.images.index_select(0, torch.from_numpy(indices)), labels

    def digest(self) -> str:
        """A SHA-256 string of the images and labels."""
        labels = b"" if self.labels is None else np.asarray(self.labels, dtype="<i8").tobytes()
        return sha256(str(tuple(self.images.shape)).encode(), self.images.numpy().data, labels)

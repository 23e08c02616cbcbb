"""Three grey digits stacked as the channels of one image: 1000 modes, known by their label."""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddgan.data.counter_rng import random_bits
from ddgan.data.in_memory import BatchedDataset
from ddgan.data.mnist import load_mnist_images
from ddgan.registry import DATASETS
from ddgan.utils.files import sha256

DIGIT_SPLITS = ("train", "test", "all")


class StackedImages(BatchedDataset):
    """Images (3, H, W) whose channels are three grey images drawn at random with replacement.

    Item i depends on (seed, i) alone. Its label is 100 a + 10 b + c for the digits a, b, c in the
    red, green and blue channel.
    """

    def __init__(
        self, name: str, images: np.ndarray, labels: np.ndarray, seed: int, num_samples: int
    ) -> None:
        super().__init__(num_samples)
        self.name = name
        self.seed = seed
        self.image_shape = (3, *images.shape[1:])
        self._grey = torch.from_numpy(np.ascontiguousarray(images))
        self._digits = labels.astype(np.int64)

    def triples(self, indices: np.ndarray) -> np.ndarray:
        """Which grey images (B, 3) make up the items ``indices`` (B,)."""
        counter = 3 * np.asarray(indices, dtype=np.int64)[:, None] + np.arange(3)
        return (random_bits(self.seed, counter) % np.uint64(len(self._grey))).astype(np.int64)

    def _batch(self, indices: np.ndarray) -> tuple[Tensor, np.ndarray]:
        triples = self.triples(indices)
        labels = self._digits[triples] @ np.array([100, 10, 1])
        channels = self._grey.index_select(0, torch.from_numpy(triples.ravel()))
        return channels.unflatten(0, (-1, 3)), labels

    def digest(self) -> str:
        """A SHA-256 string of the grey images, their digits, the seed and the length."""
        parameters = f"{tuple(self._grey.shape)} {self.seed} {self.num_samples}".encode()
        return sha256(parameters, self._grey.numpy().data, self._digits.astype("<i8").tobytes())


@functools.cache
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return images, bunch.target.astype(np.int64)


def load_digit_images(split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits: images uint8 (N, 8, 8) in 0..255, and labels (N,).

    Every fifth of the 1,797 images is held out as ``"test"`` (359), the others are ``"train"``
    (1,438). Source: UCI, "Optical Recognition of Handwritten Digits".
    """
    if split not in DIGIT_SPLITS:
        raise ValueError(f"digits: split is {split!r}, expected one of {DIGIT_SPLITS}")
    images, labels = _all_digits()
    held_out = np.arange(len(labels)) % 5 == 4
    chosen = {"train": ~held_out, "test": held_out, "all": np.ones_like(held_out)}[split]
    return images[chosen], labels[chosen]


@DATASETS.register_module()
class StackedDigits(StackedImages):
    """StackedMNIST in small: three of scikit-learn's real 8x8 digits as red, green and blue."""

    def __init__(self, split: str = "train", seed: int = 0, num_samples: int = 100_000) -> None:
        images, labels = load_digit_images(split)
        super().__init__(f"stackeddigits-{split}", images, labels, seed, num_samples)


@DATASETS.register_module()
class StackedMNIST(StackedImages):
    """Three digits of MNIST (or of a set in its form) stacked, zero-padded from 28 to 32 pixels.

    ``root``, ``split`` and the errors are those of ``load_mnist_images``. 120,000 samples as in
    the published DDGAN release, but seeded.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        seed: int = 0,
        num_samples: int = 120_000,
        image_size: int = 32,
    ) -> None:
        images, labels = load_mnist_images(root, split)
        images = zero_pad(images, image_size)
        super().__init__(f"stackedmnist-{split}", images, labels, seed, num_samples)


def zero_pad(images: np.ndarray, size: int) -> np.ndarray:
    """Grey images (N, H, W) with zeros around them, (N, size, size); ValueError if too large."""
    height, width = images.shape[1:]
    if size < max(height, width):
        raise ValueError(
            f"StackedMNIST: image_size is {size}, expected at least {max(height, width)}, the "
            "size of the images, which are only padded"
        )
    top, left = (size - height) // 2, (size - width) // 2
    padding = ((0, 0), (top, size - height - top), (left, size - width - left))
    return np.pad(images, padding)

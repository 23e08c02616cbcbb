"""The classifier that tells the 1000 modes of StackedDigits apart."""

import functools

import numpy as np

from ddgan.data import load_digit_images
from ddgan.evaluation.modes import stacked_distribution


class DigitClassifier:
    """A support vector machine on the 64 grey levels, trained on the digits' train split.

    It is deterministic and trains in about 0.1 s. ``held_out_accuracy`` is its accuracy on the test
    split.
    """

    def __init__(self) -> None:
        from sklearn.svm import SVC

        # Radial basis functions exp(-gamma |x - y|²) of grey levels in 0..255; this width equals
        # the customary 0.001 for scikit-learn's own scale of 0..16.
        self._machine = SVC(C=10.0, gamma=0.001 * (16 / 255) ** 2)
        images, digits = load_digit_images("train")
        self._machine.fit(_vectors(images), digits)
        images, digits = load_digit_images("test")
        self.held_out_accuracy = float((self.digits(images) == digits).mean())

    def digits(self, images: np.ndarray) -> np.ndarray:
        """The digits (N,), int64 in 0..9, on images (N, 8, 8) uint8."""
        _check(images, (8, 8))
        if len(images) == 0:
            return np.empty(0, dtype=np.int64)
        return self._machine.predict(_vectors(images)).astype(np.int64)

    def modes(self, images: np.ndarray) -> np.ndarray:
        """The labels (N,), int64 in 0..999, of stacked digits (N, 3, 8, 8) uint8.

        The label is 100 a + 10 b + c for the digits a, b, c in the first to third channel.
        """
        _check(images, (3, 8, 8))
        digits = self.digits(images.reshape(-1, 8, 8)).reshape(-1, 3)
        return digits @ np.array([100, 10, 1])


@functools.cache
def digit_classifier() -> DigitClassifier:
    """The classifier, trained at the first call."""
    return DigitClassifier()


def stacked_digit_distribution(split: str = "train") -> np.ndarray:
    """The probabilities (1000,) of the modes of StackedDigits."""
    return stacked_distribution(load_digit_images(split)[1])


def _vectors(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), 64).astype(np.float64)


def _check(images: np.ndarray, shape: tuple[int, ...]) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise ValueError(
            f"images are {images.dtype} {images.shape}; expected uint8 (N, {str(shape)[1:]}"
        )

"""The digit classifier: its accuracy, its labels and its determinism."""

import numpy as np
import pytest

from ddgan.data import StackedDigits, load_digit_images
from ddgan.evaluation import DigitClassifier, digit_classifier, mode_coverage
from ddgan.evaluation.digit_classifier import stacked_digit_distribution


def test_held_out_accuracy_is_that_on_the_test_split():
    classifier = digit_classifier()
    images, digits = load_digit_images("test")
    accuracy = np.mean(classifier.digits(images) == digits)
    assert classifier.held_out_accuracy == accuracy > 0.98


def test_labels_of_stacked_digits():
    data = StackedDigits(split="test", seed=5, num_samples=300)
    items = data.__getitems__(list(range(300)))
    images = np.stack([item["x"].numpy() for item in items])
    labels = np.array([item["label"] for item in items])
    classifier = digit_classifier()
    modes = classifier.modes(images)
    planes = np.stack([classifier.digits(images[:, c]) for c in range(3)], axis=1)
    np.testing.assert_array_equal(modes, planes @ [100, 10, 1])
    # All three digits have to be right.
    assert np.mean(modes == labels) > 0.94


def test_deterministic_and_blind_to_the_batch():
    images = np.random.default_rng(0).integers(0, 256, size=(40, 3, 8, 8), dtype=np.uint8)
    classifier = digit_classifier()
    modes = classifier.modes(images)
    np.testing.assert_array_equal(DigitClassifier().modes(images), modes)
    np.testing.assert_array_equal(classifier.modes(images[7:9]), modes[7:9])
    assert classifier.modes(images[:0]).shape == (0,)


def test_distribution_of_the_data():
    p = stacked_digit_distribution("train")
    digits = load_digit_images("train")[1]
    np.testing.assert_allclose(p.reshape(10, 10, 10).sum((1, 2)), np.bincount(digits) / len(digits))
    assert p[407] == pytest.approx(np.prod([np.mean(digits == d) for d in (4, 0, 7)]))
    data = StackedDigits(num_samples=20_000)
    labels = [item["label"] for item in data.__getitems__(list(range(20_000)))]
    assert mode_coverage(labels, 1000, p).kl < 0.03


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 8, 8), dtype=np.float32),
        np.zeros((2, 1, 8, 8), dtype=np.uint8),
        np.zeros((3, 8, 8), dtype=np.uint8),
    ],
)
def test_other_images_are_refused(images):
    with pytest.raises(ValueError, match=r"expected uint8 \(N, 3, 8, 8\)"):
        digit_classifier().modes(images)

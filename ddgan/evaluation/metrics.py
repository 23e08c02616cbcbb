"""Metrics as components of a config: each turns samples into a record's values."""

from typing import Any

from torch import Tensor

from ddgan.data import Gaussians25
from ddgan.evaluation.digit_classifier import digit_classifier, stacked_digit_distribution
from ddgan.evaluation.modes import finite_sample_floor, gaussian_mode_coverage, mode_coverage
from ddgan.registry import METRICS


@METRICS.register_module()
class DigitModes:
    """Modes of StackedDigits that samples cover, and KL(samples || data) in nats.

    Samples are (N, 3, 8, 8) uint8. The data's distribution is that of the training digits.
    """

    def __init__(self, num: int = 10_000):
        self.num = num

    def __call__(self, samples: Tensor) -> dict[str, Any]:
        """Return the coverage with the classifier's accuracy and the KL of perfect samples."""
        classifier = digit_classifier()
        labels = classifier.modes(samples.cpu().numpy())
        coverage = mode_coverage(labels, 1000, stacked_digit_distribution())
        return {
            **coverage._asdict(),
            "kl_uniform": mode_coverage(labels, 1000).kl,
            "kl_floor": finite_sample_floor(len(labels), 1000),
            "classifier_accuracy": classifier.held_out_accuracy,
        }


@METRICS.register_module()
class GaussianModes:
    """Modes of 25-Gaussians that samples cover, KL in nats, and the share of good samples.

    Samples are (N, 2); one within four standard deviations of a centre is good.
    """

    def __init__(self, num: int = 10_000):
        self.num = num

    def __call__(self, samples: Tensor) -> dict[str, Any]:
        """Return the coverage and the KL of perfect samples."""
        data = Gaussians25()
        coverage = gaussian_mode_coverage(samples.cpu().numpy(), data.centres, data.std)
        return {**coverage._asdict(), "kl_floor": finite_sample_floor(len(samples), 25)}

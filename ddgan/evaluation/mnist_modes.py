"""The mode coverage of StackedMNIST as a component of a config (DDGAN, Table 3)."""

import functools
from typing import Any

from torch import Tensor

from ddgan.evaluation.mnist_classifier import (
    MnistClassifier,
    mnist_classifier,
    real_mode_coverage,
    stacked_mnist_distribution,
)
from ddgan.evaluation.modes import finite_sample_floor, mode_coverage
from ddgan.registry import METRICS


@METRICS.register_module()
class MnistModes:
    """Modes of StackedMNIST that samples cover, and KL(samples || data) in nats.

    Samples are (N, 3, H, W) uint8, at least 28x28. ``root`` holds MNIST's IDX files; the
    classifier is trained on them at first use. The data's distribution is that of the training
    digits. (DDGAN, Table 3, after Lin et al. 2018.)
    """

    def __init__(self, root: str = "data/mnist", num: int = 25_600):
        self.root = root
        self.num = num

    @functools.cached_property
    def classifier(self) -> MnistClassifier:
        """The classifier, read or trained when it is first asked for."""
        return mnist_classifier(self.root)

    def __call__(self, samples: Tensor) -> dict[str, Any]:
        """Return the coverage, with the classifier's accuracy and what real triples score."""
        classifier = self.classifier.to(samples.device)
        labels = classifier.modes(samples)
        coverage = mode_coverage(labels, 1000, stacked_mnist_distribution(self.root))
        real = real_mode_coverage(classifier, self.root, len(samples))
        return {
            **coverage._asdict(),
            "kl_uniform": mode_coverage(labels, 1000).kl,
            "kl_floor": finite_sample_floor(len(labels), 1000),
            "classifier_accuracy": classifier.held_out_accuracy,
            "real_modes": real.modes,
            "real_kl": real.kl,
        }

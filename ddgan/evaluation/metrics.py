"""Metrics as components of a config: of a model, of its samples, or of features of its samples."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ddgan.data import Gaussians25
from ddgan.errors import UserError
from ddgan.evaluation.digit_classifier import digit_classifier, stacked_digit_distribution
from ddgan.evaluation.frechet import FeatureStatistics, feature_statistics, frechet_distance
from ddgan.evaluation.manifold import precision_recall_density_coverage
from ddgan.evaluation.mnist_classifier import (
    MnistClassifier,
    mnist_classifier,
    real_mode_coverage,
    stacked_mnist_distribution,
)
from ddgan.evaluation.modes import finite_sample_floor, gaussian_mode_coverage, mode_coverage
from ddgan.evaluation.pretrained import import_torch_fidelity, torch_fidelity_version
from ddgan.registry import METRICS

Features = Mapping[str, Tensor]
Real = FeatureStatistics | Features | None

# The seed of torch-fidelity's own command line, for what it draws.
_RNG_SEED = 2020
# What the names on the command line stand for. Names with equal configs are one computation.
DEFAULT_METRICS: dict[str, dict[str, Any]] = {
    "fid": {"type": "FrechetDistance"},
    "is": {"type": "InceptionScore"},
    "kid": {"type": "KernelDistance"},
    "precision": {"type": "PrecisionRecall"},
    "recall": {"type": "PrecisionRecall"},
    "density": {"type": "DensityCoverage"},
    "coverage": {"type": "DensityCoverage"},
    "fd_dinov2": {
        "type": "FrechetDistance",
        "extractor": {"type": "DINOv2Extractor"},
        "label": "fd_dinov2",
    },
    "time": {"type": "SamplingTime"},
    "nfe": {"type": "FunctionEvaluations"},
}


class FeatureMetric(ABC):
    """A number, or a few, from the features of samples and of real images.

    ``extractor`` is the config of the component of MODELS that computes the features, ``num`` the
    number of samples. ``needs`` names the real data to compare with: nothing, the statistics of all
    images, or the features of ``num_real`` images at most (None: all). With ``jpeg`` samples, and
    only samples, go through JPEG of that quality. ``settings`` go into the record. ``version``
    changes when the values do. ``higher_is_better`` says for each value which way is better. Fewer
    than ``least`` samples, or real images, are refused before the first one is drawn.
    """

    needs: ClassVar[Literal["nothing", "statistics", "features"]]
    higher_is_better: Mapping[str, bool] = {}
    extractor: dict[str, Any]
    num: int
    num_real: int | None = None
    jpeg: int | None = None
    settings: Mapping[str, Any] = {}
    least: int = 1
    version: str

    @abstractmethod
    def __call__(self, fake: Features, real: Real) -> dict[str, float]:
        """The values for an extractor's outputs for the samples, and the real data."""


def _inception() -> dict[str, Any]:
    return {"type": "InceptionExtractor"}


def _vgg16() -> dict[str, Any]:
    return {"type": "VGG16Extractor"}


@METRICS.register_module()
@dataclass
class FrechetDistance(FeatureMetric):
    """The Fréchet distance of features, FID by default: 50,000 samples against all of the data.

    The value is called ``label``. Covariances have the divisor n - 1. ``jpeg`` is the quality of
    the JPEG files that samples pass through, as in the release of DDGAN. (Heusel et al. 2017.)
    """

    needs = "statistics"
    version = "1"
    least: ClassVar = 2  # for a covariance

    extractor: dict[str, Any] = field(default_factory=_inception)
    num: int = 50_000
    label: str = "fid"
    jpeg: int | None = None

    def __post_init__(self) -> None:
        if self.jpeg is not None and not 1 <= self.jpeg <= 95:
            raise ValueError(f"FrechetDistance: jpeg is {self.jpeg}; expected a quality of 1 to 95")

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Lower is better."""
        return {self.label: False}

    def __call__(self, fake: Features, real: Real) -> dict[str, float]:
        """The distance."""
        own = feature_statistics(fake["features"])
        return {self.label: frechet_distance(own.mean, own.cov, real.mean, real.cov)}


@METRICS.register_module()
@dataclass
class InceptionScore(FeatureMetric):
    """The inception score, mean and standard deviation over ``splits`` parts of the samples.

    Computed by torch-fidelity in float64. (Salimans et al. 2016.)
    """

    needs = "nothing"
    higher_is_better: ClassVar = {"is": True}

    extractor: dict[str, Any] = field(default_factory=_inception)
    num: int = 50_000
    splits: int = 10

    def __post_init__(self) -> None:
        self.settings = {"splits": self.splits}
        self.least = self.splits
        self.version = f"1, torch-fidelity {torch_fidelity_version()}"

    def __call__(self, fake: Features, real: Real = None) -> dict[str, float]:
        """The score; raises UserError for an extractor without logits or too few samples."""
        if "logits" not in fake:
            raise UserError(f"the inception score needs logits, which {self.extractor} has not")
        if len(fake["logits"]) < self.splits:
            raise UserError(
                f"there are {len(fake['logits'])} samples for the {self.splits} splits of the "
                "inception score; expected at least one each"
            )
        import_torch_fidelity()
        from torch_fidelity.metric_isc import isc_features_to_metric

        values = isc_features_to_metric(
            fake["logits"].cpu(), splits=self.splits, shuffle=True, rng_seed=_RNG_SEED
        )
        return {"is": values["inception_score_mean"], "is_std": values["inception_score_std"]}


@METRICS.register_module()
@dataclass
class KernelDistance(FeatureMetric):
    """KID: the squared MMD of a cubic kernel, mean and deviation over subsets drawn with a seed.

    Computed by torch-fidelity in float64. (Bińkowski et al. 2018.)
    """

    needs = "features"
    higher_is_better: ClassVar = {"kid": False}

    extractor: dict[str, Any] = field(default_factory=_inception)
    num: int = 50_000
    num_real: int | None = 50_000
    subsets: int = 100
    subset_size: int = 1000

    def __post_init__(self) -> None:
        self.version = f"1, torch-fidelity {torch_fidelity_version()}"
        self.least = self.subset_size

    def __call__(self, fake: Features, real: Real) -> dict[str, float]:
        """The distance; raises UserError for fewer images than a subset has."""
        _check_enough(fake, real, self.subset_size, "KID with subset_size")
        import_torch_fidelity()
        from torch_fidelity.metric_kid import kid_features_to_metric

        values = kid_features_to_metric(
            fake["features"].double(),
            real["features"].double(),
            kid_subsets=self.subsets,
            kid_subset_size=self.subset_size,
            rng_seed=_RNG_SEED,
            verbose=False,
        )
        return {
            "kid": values["kernel_inception_distance_mean"],
            "kid_std": values["kernel_inception_distance_std"],
        }


class _ManifoldMetric(FeatureMetric):
    """Two of the four values of ``precision_recall_density_coverage``."""

    needs = "features"
    # 1: precision and recall in float32 by torch-fidelity, density and coverage with open balls.
    version = "2"
    k: int

    @property
    def settings(self) -> dict[str, int]:
        """What a record says besides the extractor and the numbers of images."""
        return {"k": self.k}

    @property
    def least(self) -> int:
        """A ball reaches to the k-th of the others."""
        return self.k + 1

    def __call__(self, fake: Features, real: Real) -> dict[str, float]:
        """The values; raises UserError for at most k images."""
        names = tuple(self.higher_is_better)
        _check_enough(fake, real, self.k + 1, f"{' and '.join(names)} with k + 1")
        values = precision_recall_density_coverage(real["features"], fake["features"], self.k)
        return {name: values[name] for name in names}


@METRICS.register_module()
@dataclass
class PrecisionRecall(_ManifoldMetric):
    """Improved precision and recall, with balls to the ``k``-th neighbour in VGG16's features.

    (Kynkäänniemi et al. 2019: k = 3, 50,000 images each.)
    """

    higher_is_better: ClassVar = {"precision": True, "recall": True}
    extractor: dict[str, Any] = field(default_factory=_vgg16)
    num: int = 50_000
    num_real: int | None = 50_000
    k: int = 3


@METRICS.register_module()
@dataclass
class DensityCoverage(_ManifoldMetric):
    """Density and coverage, with balls to the ``k``-th neighbour in VGG16's features.

    (Naeem et al. 2020: k = 5, 10,000 images each.)
    """

    higher_is_better: ClassVar = {"density": True, "coverage": True}
    extractor: dict[str, Any] = field(default_factory=_vgg16)
    num: int = 10_000
    num_real: int | None = 10_000
    k: int = 5


@METRICS.register_module()
@dataclass
class DigitModes:
    """Modes of StackedDigits that samples cover, and KL(samples || data) in nats.

    Samples are (N, 3, 8, 8) uint8. The data's distribution is that of the training digits.
    """

    higher_is_better: ClassVar = {"modes": True, "kl": False, "kl_uniform": False}

    num: int = 10_000

    def __call__(self, samples: Tensor) -> dict[str, Any]:
        """The coverage, the classifier's accuracy and the KL of perfect samples."""
        classifier = digit_classifier()
        labels = classifier.modes(samples.cpu().numpy())
        return _stacked_modes(labels, stacked_digit_distribution(), classifier.held_out_accuracy)


@METRICS.register_module()
@dataclass
class MnistModes:
    """Modes of StackedMNIST that samples cover, and KL(samples || data) in nats.

    Samples are (N, 3, H, W) uint8, at least 28x28. ``root`` holds MNIST's IDX files; the
    classifier is trained on them at first use. The data's distribution is that of the training
    digits. (DDGAN, Table 3, after Lin et al. 2018.)
    """

    higher_is_better: ClassVar = {"modes": True, "kl": False, "kl_uniform": False}

    root: str = "data/mnist"
    num: int = 25_600

    @functools.cached_property
    def classifier(self) -> MnistClassifier:
        """The classifier, read or trained at the first access."""
        return mnist_classifier(self.root)

    def __call__(self, samples: Tensor) -> dict[str, Any]:
        """The coverage, the classifier's accuracy and the coverage of as many real triples."""
        classifier = self.classifier.to(samples.device)
        labels, distribution = classifier.modes(samples), stacked_mnist_distribution(self.root)
        real = real_mode_coverage(classifier, self.root, len(samples))
        values = _stacked_modes(labels, distribution, classifier.held_out_accuracy)
        return {**values, "real_modes": real.modes, "real_kl": real.kl}


def _stacked_modes(labels: np.ndarray, distribution: np.ndarray, accuracy: float) -> dict[str, Any]:
    return {
        **mode_coverage(labels, 1000, distribution)._asdict(),
        "kl_uniform": mode_coverage(labels, 1000).kl,
        "kl_floor": finite_sample_floor(len(labels), 1000),
        "classifier_accuracy": accuracy,
    }


@METRICS.register_module()
@dataclass
class GaussianModes:
    """Modes of 25-Gaussians that samples cover, KL in nats, and the share of good samples.

    Samples are (N, 2); one within four standard deviations of a centre is good. Centres and
    deviation are those of the data set that the run compares with, by default of ``Gaussians25()``.
    """

    higher_is_better: ClassVar = {
        "modes": True,
        "kl": False,
        "high_quality": True,
        "lowest_share": True,
        "modes_with_half": True,
        "modes_with_fifth": True,
    }
    # 1: always scored against the centres and the deviation of Gaussians25().
    version: ClassVar = "2"

    num: int = 10_000

    def __post_init__(self) -> None:
        self.dataset = Gaussians25()

    def use_dataset(self, dataset: Dataset) -> None:
        """Compare with this data set; raises UserError if it is not a mixture of Gaussians."""
        if not (hasattr(dataset, "centres") and hasattr(dataset, "std")):
            raise UserError(
                f"GaussianModes compares with Gaussians25, but the data set is {dataset.name}; set "
                "evaluation_dataset=dict(type='Gaussians25')"
            )
        self.dataset = dataset

    def __call__(self, samples: Tensor) -> dict[str, Any]:
        """The coverage, each mode's share, and the KL of perfect samples."""
        centres, std = self.dataset.centres, self.dataset.std
        coverage = gaussian_mode_coverage(samples.cpu().numpy(), centres, std)
        floor = finite_sample_floor(len(samples), len(centres))
        return {**coverage._asdict(), "kl_floor": floor}


def _check_enough(fake: Features, real: Features, least: int, what: str) -> None:
    counts = len(fake["features"]), len(real["features"])
    if min(counts) < least:
        raise UserError(
            f"there are {counts[0]} samples and {counts[1]} real images for {what} = {least}; "
            "expected at least as many of each"
        )

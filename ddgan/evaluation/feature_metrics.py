"""Metrics of features as components of a config."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from ddgan.errors import UserError
from ddgan.evaluation.frechet import FeatureStatistics, feature_statistics, frechet_distance
from ddgan.evaluation.manifold import precision_recall_density_coverage
from ddgan.evaluation.optional_packages import import_torch_fidelity, torch_fidelity_version
from ddgan.registry import METRICS

Real = FeatureStatistics | Mapping[str, Tensor] | None

# Rows and columns of the distances that are in memory at once.
_BLOCK = 2048
# The seed of torch-fidelity's own command line, for what it draws.
_RNG_SEED = 2020


class FeatureMetric(ABC):
    """A number, or a few, from the features of samples and of real images.

    ``extractor`` is the config of the component of MODELS that computes the features, ``num`` how
    many samples are wanted. ``needs`` says what of the real data: nothing, the statistics, or the
    features, of ``num_real`` images at most (None: all). ``version`` changes when the values do.
    """

    needs: ClassVar[Literal["nothing", "statistics", "features"]]
    extractor: dict[str, Any]
    num: int
    num_real: int | None = None
    version: str

    @abstractmethod
    def __call__(self, fake: Mapping[str, Tensor], real: Real) -> dict[str, float]:
        """Return the values for an extractor's outputs for the samples, and the real data."""


@METRICS.register_module()
class FrechetDistance(FeatureMetric):
    """The Fréchet distance of features, FID by default: 50,000 samples against all of the data.

    The value is called ``label``. Covariances have the divisor n - 1. (Heusel et al. 2017.)
    """

    needs = "statistics"
    version = "1"

    def __init__(
        self, extractor: dict[str, Any] | None = None, num: int = 50_000, label: str = "fid"
    ) -> None:
        self.extractor = dict(extractor or {"type": "InceptionExtractor"})
        self.num = num
        self.label = label

    def __call__(self, fake: Mapping[str, Tensor], real: Real) -> dict[str, float]:
        """Return the distance."""
        own = feature_statistics(fake["features"])
        return {self.label: frechet_distance(own.mean, own.cov, real.mean, real.cov)}


@METRICS.register_module()
class InceptionScore(FeatureMetric):
    """The inception score, mean and standard deviation over ``splits`` parts of the samples.

    Computed by torch-fidelity in float64. (Salimans et al. 2016.)
    """

    needs = "nothing"

    def __init__(
        self, extractor: dict[str, Any] | None = None, num: int = 50_000, splits: int = 10
    ) -> None:
        self.extractor = dict(extractor or {"type": "InceptionExtractor"})
        self.num = num
        self.splits = splits
        self.version = f"1, torch-fidelity {torch_fidelity_version()}"

    def __call__(self, fake: Mapping[str, Tensor], real: Real = None) -> dict[str, float]:
        """Return the score; raises UserError for an extractor without logits or few samples."""
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
class KernelDistance(FeatureMetric):
    """KID: the squared MMD of a cubic kernel, mean and deviation over subsets drawn with a seed.

    Computed by torch-fidelity, in float64. (Bińkowski et al. 2018.)
    """

    needs = "features"

    def __init__(
        self,
        extractor: dict[str, Any] | None = None,
        num: int = 50_000,
        num_real: int | None = 50_000,
        subsets: int = 100,
        subset_size: int = 1000,
    ) -> None:
        self.extractor = dict(extractor or {"type": "InceptionExtractor"})
        self.num, self.num_real = num, num_real
        self.subsets, self.subset_size = subsets, subset_size
        self.version = f"1, torch-fidelity {torch_fidelity_version()}"

    def __call__(self, fake: Mapping[str, Tensor], real: Real) -> dict[str, float]:
        """Return the distance; raises UserError for fewer images than a subset has."""
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


@METRICS.register_module()
class PrecisionRecall(FeatureMetric):
    """Improved precision and recall, with balls to the ``k``-th neighbour in VGG16's features.

    Computed by torch-fidelity. Its balls are closed: a copy of another image is inside where
    the distance is rounded to zero. (Kynkäänniemi et al. 2019: k = 3, 50,000 images each.)
    """

    needs = "features"

    def __init__(
        self,
        extractor: dict[str, Any] | None = None,
        num: int = 50_000,
        num_real: int | None = 50_000,
        k: int = 3,
    ) -> None:
        self.extractor = dict(extractor or {"type": "VGG16Extractor"})
        self.num, self.num_real, self.k = num, num_real, k
        self.version = f"1, torch-fidelity {torch_fidelity_version()}"

    def __call__(self, fake: Mapping[str, Tensor], real: Real) -> dict[str, float]:
        """Return precision and recall; raises UserError for at most k images."""
        _check_enough(fake, real, self.k + 1, "precision and recall with k + 1")
        import_torch_fidelity()
        from torch_fidelity.metric_prc import prc_features_to_metric

        values = prc_features_to_metric(
            fake["features"],
            real["features"],
            prc_neighborhood=self.k,
            prc_batch_size=_BLOCK,
            save_cpu_ram=True,
            verbose=False,
        )
        return {"precision": values["precision"], "recall": values["recall"]}


@METRICS.register_module()
class DensityCoverage(FeatureMetric):
    """Density and coverage, with balls to the ``k``-th neighbour in VGG16's features.

    (Naeem et al. 2020: k = 5, 10,000 images each.)
    """

    needs = "features"
    version = "1"

    def __init__(
        self,
        extractor: dict[str, Any] | None = None,
        num: int = 10_000,
        num_real: int | None = 10_000,
        k: int = 5,
    ) -> None:
        self.extractor = dict(extractor or {"type": "VGG16Extractor"})
        self.num, self.num_real, self.k = num, num_real, k

    def __call__(self, fake: Mapping[str, Tensor], real: Real) -> dict[str, float]:
        """Return density and coverage; raises UserError for at most k images."""
        _check_enough(fake, real, self.k + 1, "density and coverage with k + 1")
        values = precision_recall_density_coverage(real["features"], fake["features"], self.k)
        return {name: values[name] for name in ("density", "coverage")}


def _check_enough(
    fake: Mapping[str, Tensor], real: Mapping[str, Tensor], least: int, what: str
) -> None:
    counts = len(fake["features"]), len(real["features"])
    if min(counts) < least:
        raise UserError(
            f"there are {counts[0]} samples and {counts[1]} real images for {what} = {least}; "
            "expected at least as many of each"
        )


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
}

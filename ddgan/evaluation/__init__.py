"""Metrics: pure functions of samples, labels and features."""

from ddgan.evaluation.digit_classifier import (
    DigitClassifier,
    digit_classifier,
    stacked_digit_distribution,
)
from ddgan.evaluation.evaluator import EvaluationOptions, Evaluator
from ddgan.evaluation.extractors import (
    FeatureExtractor,
    InceptionExtractor,
    PixelExtractor,
    VGG16Extractor,
)
from ddgan.evaluation.feature_metrics import (
    DEFAULT_METRICS,
    DensityCoverage,
    FeatureMetric,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    PrecisionRecall,
)
from ddgan.evaluation.frechet import (
    FeatureStatistics,
    StatisticsAccumulator,
    feature_statistics,
    frechet_distance,
)
from ddgan.evaluation.manifold import precision_recall_density_coverage
from ddgan.evaluation.metrics import DigitModes, GaussianModes
from ddgan.evaluation.mnist_classifier import MnistFeatures
from ddgan.evaluation.mnist_modes import MnistModes
from ddgan.evaluation.modes import (
    GaussianModeCoverage,
    ModeCoverage,
    finite_sample_floor,
    gaussian_mode_coverage,
    mode_coverage,
)
from ddgan.evaluation.neighbours import Neighbours, nearest_neighbours
from ddgan.evaluation.pretrained_extractors import (
    DINOv2Extractor,
    EfficientNetLite0Extractor,
    TimmExtractor,
)
from ddgan.evaluation.records import read_records, record_path, write_record
from ddgan.evaluation.sampling_time import (
    FunctionEvaluations,
    SamplingTime,
    count_evaluations,
    sampling_times,
)

__all__ = [
    "DEFAULT_METRICS",
    "DINOv2Extractor",
    "DensityCoverage",
    "DigitClassifier",
    "DigitModes",
    "EfficientNetLite0Extractor",
    "EvaluationOptions",
    "Evaluator",
    "FeatureExtractor",
    "FeatureMetric",
    "FeatureStatistics",
    "FrechetDistance",
    "FunctionEvaluations",
    "GaussianModeCoverage",
    "GaussianModes",
    "InceptionExtractor",
    "InceptionScore",
    "KernelDistance",
    "MnistFeatures",
    "MnistModes",
    "ModeCoverage",
    "Neighbours",
    "PixelExtractor",
    "PrecisionRecall",
    "SamplingTime",
    "StatisticsAccumulator",
    "TimmExtractor",
    "VGG16Extractor",
    "count_evaluations",
    "digit_classifier",
    "feature_statistics",
    "finite_sample_floor",
    "frechet_distance",
    "gaussian_mode_coverage",
    "mode_coverage",
    "nearest_neighbours",
    "precision_recall_density_coverage",
    "read_records",
    "record_path",
    "sampling_times",
    "stacked_digit_distribution",
    "write_record",
]

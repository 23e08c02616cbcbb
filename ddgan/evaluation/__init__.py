"""Metrics of samples, their features and reference sets, and the evaluator that measures them."""

from ddgan.evaluation.digit_classifier import DigitClassifier, digit_classifier
from ddgan.evaluation.evaluator import EvaluationOptions, Evaluator, build_metrics
from ddgan.evaluation.extractors import (
    DINOv2Extractor,
    EfficientNetLite0Extractor,
    FeatureExtractor,
    InceptionExtractor,
    PixelExtractor,
    TimmExtractor,
    VGG16Extractor,
)
from ddgan.evaluation.frechet import feature_statistics, frechet_distance
from ddgan.evaluation.manifold import nearest_neighbours, precision_recall_density_coverage
from ddgan.evaluation.metrics import FeatureMetric
from ddgan.evaluation.mnist_classifier import MnistFeatures
from ddgan.evaluation.modes import finite_sample_floor, gaussian_mode_coverage, mode_coverage
from ddgan.evaluation.records import read_records, record_path, write_record
from ddgan.evaluation.sampling_time import ModelMetric

__all__ = [
    "DINOv2Extractor",
    "DigitClassifier",
    "EfficientNetLite0Extractor",
    "EvaluationOptions",
    "Evaluator",
    "FeatureExtractor",
    "FeatureMetric",
    "InceptionExtractor",
    "MnistFeatures",
    "ModelMetric",
    "PixelExtractor",
    "TimmExtractor",
    "VGG16Extractor",
    "build_metrics",
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
    "write_record",
]

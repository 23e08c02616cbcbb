"""Metrics: pure functions of samples, labels and features."""

from ddgan.evaluation.digit_classifier import (
    DigitClassifier,
    digit_classifier,
    stacked_digit_distribution,
)
from ddgan.evaluation.metrics import DigitModes, GaussianModes
from ddgan.evaluation.modes import (
    GaussianModeCoverage,
    ModeCoverage,
    finite_sample_floor,
    gaussian_mode_coverage,
    mode_coverage,
)
from ddgan.evaluation.records import record_path, write_record

__all__ = [
    "DigitClassifier",
    "DigitModes",
    "GaussianModeCoverage",
    "GaussianModes",
    "ModeCoverage",
    "digit_classifier",
    "finite_sample_floor",
    "gaussian_mode_coverage",
    "mode_coverage",
    "record_path",
    "stacked_digit_distribution",
    "write_record",
]

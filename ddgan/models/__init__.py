"""The methods: train steps and sampling, one file each."""

from ddgan.models.adversarial import AdversarialModel
from ddgan.models.base import GenerativeModel
from ddgan.models.ddgan import DDGAN
from ddgan.models.preprocessor import ImagePreprocessor, PointPreprocessor

__all__ = [
    "DDGAN",
    "AdversarialModel",
    "GenerativeModel",
    "ImagePreprocessor",
    "PointPreprocessor",
]

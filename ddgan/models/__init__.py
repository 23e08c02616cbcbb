"""The methods: train steps and sampling, one file each."""

from ddgan.models.adversarial import AdversarialModel
from ddgan.models.augment import AdaptiveAugmentation
from ddgan.models.base import GenerativeModel
from ddgan.models.ddgan import DDGAN
from ddgan.models.preprocessor import ImagePreprocessor, PointPreprocessor
from ddgan.models.spigan import SPIGAN

__all__ = [
    "DDGAN",
    "SPIGAN",
    "AdaptiveAugmentation",
    "AdversarialModel",
    "GenerativeModel",
    "ImagePreprocessor",
    "PointPreprocessor",
]

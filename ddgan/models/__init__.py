"""The methods: train steps and sampling, one file each."""

from ddgan.models.adversarial import AdversarialModel
from ddgan.models.augment import AdaptiveAugmentation, DiffAugment, DiffusionAugmentation
from ddgan.models.base import GenerativeModel
from ddgan.models.ddgan import DDGAN
from ddgan.models.ddpm import DDPM
from ddgan.models.gan import GAN, WGANGP
from ddgan.models.preprocessor import ImagePreprocessor, PointPreprocessor
from ddgan.models.spigan import SPIGAN
from ddgan.models.stylegan2 import StyleGAN2

__all__ = [
    "DDGAN",
    "DDPM",
    "GAN",
    "SPIGAN",
    "WGANGP",
    "AdaptiveAugmentation",
    "AdversarialModel",
    "DiffAugment",
    "DiffusionAugmentation",
    "GenerativeModel",
    "ImagePreprocessor",
    "PointPreprocessor",
    "StyleGAN2",
]

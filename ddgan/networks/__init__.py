"""Generators and discriminators."""

from ddgan.networks.discriminator import TimeDependentDiscriminator, minibatch_stddev
from ddgan.networks.mlp import (
    MLPDiscriminator,
    MLPGenerator,
    MLPLatentGenerator,
    MLPUnconditionalDiscriminator,
)
from ddgan.networks.ncsnpp import NCSNpp
from ddgan.networks.node_mapping import MLPMapping, NeuralODEMapping
from ddgan.networks.path_discriminator import MLPPathDiscriminator
from ddgan.networks.spigan_generator import SPIGANGenerator
from ddgan.networks.stylegan2_discriminator import StyleGAN2Discriminator
from ddgan.networks.stylegan2_generator import StyleGAN2Generator

__all__ = [
    "MLPDiscriminator",
    "MLPGenerator",
    "MLPLatentGenerator",
    "MLPMapping",
    "MLPPathDiscriminator",
    "MLPUnconditionalDiscriminator",
    "NCSNpp",
    "NeuralODEMapping",
    "SPIGANGenerator",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "TimeDependentDiscriminator",
    "minibatch_stddev",
]

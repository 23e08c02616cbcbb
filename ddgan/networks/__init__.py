"""Generators and discriminators."""

from ddgan.networks.discriminator import TimeDependentDiscriminator, minibatch_stddev
from ddgan.networks.mlp import MLPDiscriminator, MLPGenerator
from ddgan.networks.ncsnpp import NCSNpp

__all__ = [
    "MLPDiscriminator",
    "MLPGenerator",
    "NCSNpp",
    "TimeDependentDiscriminator",
    "minibatch_stddev",
]

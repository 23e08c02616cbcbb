"""Noise on the way from that of one series of samples to that of another."""

import math

import torch
from torch import Tensor

from ddgan.diffusion.noise import SampleNoise


class NoiseOnArc(SampleNoise):
    """The noise cos(πa/2) ε + sin(πa/2) ε' between two independent series ε and ε'.

    It is standard normal at every a in [0, 1], which a straight line between two draws is not, so
    each point of the way is a fair start for a generator. At a = 0 and 1 it is ε and ε' bit for
    bit.
    """

    def __init__(self, start: SampleNoise, stop: SampleNoise, a: float):
        """Take the two series, as long as each other and of different keys or indices."""
        if len(start) != len(stop) or not 0 <= a <= 1:
            raise ValueError(
                f"the series have {len(start)} and {len(stop)} samples and a is {a}; expected as "
                "many in both, and a in [0, 1]"
            )
        self.key, self.indices = start.key, start.indices
        self.start, self.stop, self.a = start, stop, a

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        """Return (B, *shape) float32 standard normals of one stream."""
        if self.a in (0, 1):
            return (self.stop if self.a else self.start).normal(stream, shape)
        angle = self.a * math.pi / 2
        start, stop = (part.normal(stream, shape).double() for part in (self.start, self.stop))
        return (math.cos(angle) * start + math.sin(angle) * stop).to(torch.float32)

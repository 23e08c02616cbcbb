"""The 25-Gaussians of the DDGAN paper (Appendix C.5, Fig. 6)."""

import math

import numpy as np
import torch
from torch import Tensor

from ddgan.data.counter_rng import random_bits, uniform
from ddgan.data.in_memory import BatchedDataset
from ddgan.registry import DATASETS
from ddgan.utils.files import sha256


@DATASETS.register_module()
class Gaussians25(BatchedDataset):
    """Points (2,) float32 of 25 equally likely Gaussians on a 5x5 grid; the label is the mode.

    The paper gives no numbers; these are the usual ones: centres 2 {-2..2}^2 and standard
    deviation ``std`` = 0.05, then all multiplied by ``scale`` = 1 / (2 sqrt 2), which gives each
    coordinate of the centres unit variance. Attributes ``centres`` (25, 2) and ``std`` are those
    of the points as they leave the data set, that is, scaled. Point i depends on (seed, i) alone.
    """

    name = "gaussians25"
    image_shape = (2,)

    def __init__(
        self,
        num_samples: int = 100_000,
        seed: int = 0,
        std: float = 0.05,
        scale: float = 1 / (2 * math.sqrt(2)),
    ) -> None:
        super().__init__(num_samples)
        if not (std >= 0 and scale > 0):
            raise ValueError(
                f"Gaussians25: std is {std} and scale {scale}, expected std >= 0 and scale > 0"
            )
        self.seed = seed
        steps = 2.0 * scale * np.arange(-2, 3)
        self.centres = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(25, 2)
        self.std = std * scale

    def _batch(self, indices: np.ndarray) -> tuple[Tensor, np.ndarray]:
        counter = 3 * indices
        modes = (random_bits(self.seed, counter) % np.uint64(25)).astype(np.int64)
        # Box and Muller: two uniform numbers give two independent normal ones.
        radius = np.sqrt(-2.0 * np.log(uniform(self.seed, counter + 1)))
        angle = 2.0 * np.pi * uniform(self.seed, counter + 2)
        noise = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        points = self.centres[modes] + self.std * noise
        return torch.from_numpy(points.astype(np.float32)), modes

    def digest(self) -> str:
        """A SHA-256 string of the parameters."""
        parameters = f"{self.num_samples} {self.seed} {self.std!r}".encode()
        return sha256(parameters, self.centres.tobytes())

"""From a batch of the loader to the x_0 of a train step, on the device, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS


@MODELS.register_module()
class ImagePreprocessor(nn.Module):
    """Map uint8 images to [-1, 1] and flip each left to right with probability 1/2 if asked."""

    def __init__(self, flip: bool = False):
        super().__init__()
        self.flip = flip

    def forward(self, batch: Mapping[str, Tensor], rng: StepRandom) -> Tensor:
        """(B, C, H, W) float images in [-1, 1] from ``batch["x"]`` (uint8)."""
        x0 = batch["x"].to(rng.device, non_blocking=True).float().div_(127.5).sub_(1)
        if self.flip:
            flipped = rng.uniform() < 0.5
            x0 = torch.where(flipped[:, None, None, None], x0.flip(-1), x0)
        return x0

    def restore(self, x0: Tensor) -> Tensor:
        """x_0 as uint8 images, rounded to the nearest level."""
        return x0.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


@MODELS.register_module()
class PointPreprocessor(nn.Module):
    """Multiply points by ``scale``, for the model alone: its samples are in the data's units."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"PointPreprocessor: scale is {scale}; expected a value above 0")
        self.scale = scale

    def forward(self, batch: Mapping[str, Tensor], rng: StepRandom) -> Tensor:
        """``batch["x"]`` as float32 on the device, scaled."""
        return batch["x"].to(rng.device, torch.float32, non_blocking=True) * self.scale

    def restore(self, x0: Tensor) -> Tensor:
        """x_0 in the units of the data."""
        return x0 / self.scale

"""Convolutions of stride 1 that keep the size, on CPUs by Winograd's minimal filtering."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan.ops import library, native
from ddgan.ops.selection import compiled

# Vectors have up to 16 lanes, and transforming the weights costs about as much as this many tiles
# of 4 x 4 pixels gain.
_MIN_CHANNELS = 16
_MIN_TILES = 16
_fast = library.built_for("cpu") and library.cpu_capability() != "baseline"


def _winograd_gains(x: Tensor, weight: Tensor) -> bool:
    if not _fast or x.device.type != "cpu" or weight.shape[2:] != (3, 3) or not compiled(x):
        return False
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    n, _, h, w = x.shape
    tiles = n * ((h + 3) // 4) * ((w + 3) // 4)
    # Of small odd sizes most of a tile is cut off.
    full = 16 * tiles <= 2 * n * h * w
    return full and tiles >= _MIN_TILES and min(weight.shape[:2]) >= _MIN_CHANNELS


def same_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve (N, C, H, W) with (K, C, k, k), k odd, into (N, K, H, W), with zeros around.

    On CPUs with AVX2 or AVX-512, 3 x 3 convolutions in float32 of 16 or more channels take about
    half of PyTorch's time, by F(4 x 4, 3 x 3) of Lavin and Gray, arXiv:1509.09308; their rounding
    errors are about 1e-6 of the results' norm. Differentiable any number of times.
    """
    if _winograd_gains(x, weight):
        return native.ops.conv3x3(x, weight, bias, False)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

"""The operations in plain PyTorch: what the compiled ones must equal, and the fallback."""

import torch
import torch.nn.functional as F
from torch import Tensor


def _accumulation(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def upfirdn2d(
    x: Tensor,
    kernel: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    gain: float,
) -> Tensor:
    """Insert zeros, pad, convolve with the 2-D ``kernel`` and keep every n-th pixel."""
    up_x, up_y = up
    n, c, h, w = x.shape
    weight = (kernel * gain).to(x.dtype).flip(0, 1)[None, None].expand(c, 1, -1, -1)
    y = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up_x - 1, 0, 0, 0, up_y - 1))
    y = F.pad(y.reshape(n, c, h * up_y, w * up_x), padding)
    if x.device.type == "meta":  # which has no autocast to leave
        return F.conv2d(y, weight, groups=c)[:, :, :: down[1], :: down[0]]
    # Resampling moves pixels about and keeps their dtype; autocast would round them.
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(y, weight, groups=c)[:, :, :: down[1], :: down[0]]


def ada_group_norm(
    x: Tensor, num_groups: int, scale: Tensor, shift: Tensor, eps: float, silu: bool
) -> Tensor:
    """Group norm, scale and shift per sample and SiLU, in float32 (float64 for float64)."""
    dtype = _accumulation(x)
    broadcast = (*scale.shape, *([1] * (x.ndim - 2)))
    y = F.group_norm(x.to(dtype), num_groups, eps=eps)
    y = y * scale.to(dtype).reshape(broadcast) + shift.to(dtype).reshape(broadcast)
    return (F.silu(y) if silu else y).to(x.dtype)


def bias_leaky_relu(
    x: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float | None
) -> Tensor:
    """Bias, leaky ReLU, gain and clamp, one after the other."""
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(1, -1, *([1] * (x.ndim - 2)))
    x = F.leaky_relu(x, slope)
    if gain != 1:
        x = x * gain
    return x if clamp is None else torch.clamp(x, -clamp, clamp)

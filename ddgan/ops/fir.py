"""Resampling with finite impulse response filters: pad, insert zeros, filter, keep every n-th."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Tensor | Sequence[float]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _kernel2d(kernel: Kernel, device: torch.device) -> Tensor:
    k = torch.as_tensor(kernel, dtype=torch.float32, device=device)
    return torch.outer(k, k) if k.ndim == 1 else k


def upfirdn2d(
    x: Tensor,
    kernel: Kernel,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 1,
) -> Tensor:
    """Upsample by zero insertion, pad, convolve with ``gain * kernel`` and downsample.

    ``x`` is (N, C, H, W). ``kernel`` has the taps of a separable filter (1-D) or a 2-D filter; it
    is used as given, neither normalised nor flipped by the caller. ``up`` and ``down`` are one
    factor or (x, y); ``padding`` is one width, (before, after) for both axes, or (x before,
    x after, y before, y after), negative widths crop.
    """
    up_x, up_y = _pair(up)
    down_x, down_y = _pair(down)
    if isinstance(padding, int):
        padding = (padding,) * 4
    pad_x0, pad_x1, pad_y0, pad_y1 = padding if len(padding) == 4 else (*padding, *padding)
    n, c, h, w = x.shape
    k = (_kernel2d(kernel, x.device) * gain).to(x.dtype)
    y = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up_x - 1, 0, 0, 0, up_y - 1))
    y = y.reshape(n, c, h * up_y, w * up_x)
    y = F.pad(y, (pad_x0, pad_x1, pad_y0, pad_y1))
    weight = k.flip(0, 1)[None, None].expand(c, 1, -1, -1)
    return F.conv2d(y, weight, groups=c)[:, :, ::down_y, ::down_x]


def _normalized(kernel: Kernel) -> Tensor:
    k = torch.as_tensor(kernel, dtype=torch.float64)
    return k / k.sum()


def upsample2d(
    x: Tensor, kernel: Kernel = (1, 3, 3, 1), factor: int = 2, gain: float = 1
) -> Tensor:
    """Upsample (N, C, H, W) by ``factor``; the kernel is normalised and multiplied by factor²."""
    k = _normalized(kernel)
    p = k.shape[0] - factor
    padding = ((p + 1) // 2 + factor - 1, p // 2)
    return upfirdn2d(x, k, up=factor, padding=padding, gain=gain * factor**2)


def downsample2d(
    x: Tensor, kernel: Kernel = (1, 3, 3, 1), factor: int = 2, gain: float = 1
) -> Tensor:
    """Downsample (N, C, H, W) by ``factor`` with a normalised kernel."""
    k = _normalized(kernel)
    p = k.shape[0] - factor
    return upfirdn2d(x, k, down=factor, padding=((p + 1) // 2, p // 2), gain=gain)


def conv_downsample2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, kernel: Kernel = (1, 3, 3, 1)
) -> Tensor:
    """FIR filter, then convolve with stride 2 and no padding: the pyramid's downsampling.

    ``weight`` is (C_out, C_in, k, k).
    """
    k = _normalized(kernel)
    p = k.shape[0] - 2 + weight.shape[-1] - 1
    y = upfirdn2d(x, k, padding=((p + 1) // 2, p // 2))
    return F.conv2d(y, weight, bias, stride=2)

"""Resampling with finite impulse response filters: insert zeros, pad, filter, keep every n-th."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan.ops import native, reference
from ddgan.ops.selection import compiled

Kernel = Tensor | Sequence[float] | Sequence[Sequence[float]]

MAX_TAPS = 32
MAX_FACTOR = 8


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _four(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    if isinstance(padding, int):
        return (padding,) * 4
    a, b, *rest = padding
    return (a, b, *rest) if rest else (a, b, a, b)


def _taps(kernel: Kernel) -> tuple[float, ...] | None:
    """The taps of a separable filter given as numbers; None for a tensor or a 2-D filter."""
    if isinstance(kernel, Tensor) or isinstance(kernel[0], Sequence):
        return None
    return tuple([float(tap) for tap in kernel])


def _kernel2d(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> Tensor:
    taps = _taps(kernel)
    if taps is not None:
        # Filled in on the device: copying from the host would wait for a GPU, and a CUDA graph
        # cannot record it.
        k = torch.stack([torch.full((), tap, dtype=dtype, device=device) for tap in taps])
    else:
        k = torch.as_tensor(kernel, dtype=dtype, device=device)
    return torch.outer(k, k) if k.ndim == 1 else k


def _check(
    x: Tensor, shape: Sequence[int], up: Sequence[int], down: Sequence[int], pads: Sequence[int]
) -> None:
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (N, C, H, W)")
    if len(shape) not in (1, 2) or not all(1 <= n <= MAX_TAPS for n in shape):
        raise ValueError(
            f"the kernel has shape {tuple(shape)}; expected 1 to {MAX_TAPS} taps a side"
        )
    if not all(1 <= factor <= MAX_FACTOR for factor in (*up, *down)):
        raise ValueError(f"up is {up} and down {down}; expected factors from 1 to {MAX_FACTOR}")
    width = x.shape[3] * up[0] + pads[0] + pads[1]
    height = x.shape[2] * up[1] + pads[2] + pads[3]
    if width < shape[-1] or height < shape[0]:
        raise ValueError(
            f"x of shape {tuple(x.shape)} is {height} by {width} after upsampling by {up} and "
            f"padding by {pads}: smaller than the kernel of shape {tuple(shape)}"
        )


def upfirdn2d(
    x: Tensor,
    kernel: Kernel,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 1,
) -> Tensor:
    """Upsample by zero insertion, pad, convolve with ``gain * kernel`` and downsample.

    ``x`` is (N, C, H, W). ``kernel`` has up to 32 taps a side: those of a separable filter (1-D)
    or a 2-D filter; it is used as given, neither normalised nor flipped by the caller. ``up`` and
    ``down`` are one factor from 1 to 8 or (x, y); ``padding`` is one width, (before, after) for
    both axes, or (x before, x after, y before, y after), negative widths crop. Differentiable
    any number of times with respect to ``x``. Raises ValueError for sizes out of range. A kernel
    that requires a gradient gets one from the reference, whatever the backend.
    """
    up, down, pads = _pair(up), _pair(down), _four(padding)
    taps = _taps(kernel)
    shape = (len(taps),) if taps is not None else torch.as_tensor(kernel).shape
    _check(x, shape, up, down, pads)
    learned = isinstance(kernel, Tensor) and kernel.requires_grad
    if learned or not compiled(x):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        k = _kernel2d(kernel, x.device, dtype)
        return reference.upfirdn2d(x, k, up, down, pads, gain)
    k = None if taps is not None else _kernel2d(kernel, x.device, torch.float32)
    return native.ops.upfirdn2d(x, taps or (), k, *up, *down, *pads, False, float(gain))


def _normalized(kernel: Kernel) -> Kernel:
    taps = _taps(kernel)
    if taps is not None:
        total = sum(taps)
        return tuple([tap / total for tap in taps])
    k = torch.as_tensor(kernel, dtype=torch.float64)
    return k / k.sum()


def upsample2d(
    x: Tensor, kernel: Kernel = (1, 3, 3, 1), factor: int = 2, gain: float = 1
) -> Tensor:
    """Upsample (N, C, H, W) by ``factor``; the kernel is normalised and multiplied by factor²."""
    k = _normalized(kernel)
    p = len(k) - factor
    padding = ((p + 1) // 2 + factor - 1, p // 2)
    return upfirdn2d(x, k, up=factor, padding=padding, gain=gain * factor**2)


def downsample2d(
    x: Tensor, kernel: Kernel = (1, 3, 3, 1), factor: int = 2, gain: float = 1
) -> Tensor:
    """Downsample (N, C, H, W) by ``factor`` with a normalised kernel."""
    k = _normalized(kernel)
    p = len(k) - factor
    return upfirdn2d(x, k, down=factor, padding=((p + 1) // 2, p // 2), gain=gain)


def conv_downsample2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, kernel: Kernel = (1, 3, 3, 1)
) -> Tensor:
    """FIR filter, then convolve with stride 2 and no padding: the pyramid's downsampling.

    ``weight`` is (C_out, C_in, k, k).
    """
    k = _normalized(kernel)
    p = len(k) - 2 + weight.shape[-1] - 1
    y = upfirdn2d(x, k, padding=((p + 1) // 2, p // 2))
    return F.conv2d(y, weight, bias, stride=2)

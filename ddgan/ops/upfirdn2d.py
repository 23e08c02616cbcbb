"""Resampling with FIR filters: insert zeros, pad, filter, keep every n-th pixel."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan.ops.backend import (
    accumulation_dtype,
    compiled,
    differentiable,
    empty_like,
    kernels,
    transformed,
)

Kernel = Tensor | Sequence[float] | Sequence[Sequence[float]]

MAX_TAPS = 32
MAX_FACTOR = 8


def upfirdn2d(
    x: Tensor,
    kernel: Kernel,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 1,
) -> Tensor:
    """Upsample by zero insertion, pad, convolve with ``gain * kernel`` and downsample.

    ``x`` is (N, C, H, W). ``kernel`` has 1 to 32 taps a side, 1-D for a separable filter or 2-D,
    and is used as given: neither normalised nor flipped. ``up`` and ``down`` are one factor from 1
    to 8 or (x, y); ``padding`` is one width, (before, after) for both axes, or (x before, x after,
    y before, y after), and negative widths crop. Differentiable any number of times with respect
    to ``x``; a kernel that requires a gradient gets one, always from the reference. Raises
    ValueError for sizes out of range.
    """
    up, down, pads = _pair(up), _pair(down), _four(padding)
    taps = _taps(kernel)
    shape = (len(taps),) if taps is not None else torch.as_tensor(kernel).shape
    _check(x, shape, up, down, pads)
    learned = isinstance(kernel, Tensor) and (kernel.requires_grad or transformed())
    if learned or not compiled(x):
        filter2d = _kernel2d(kernel, x.device, accumulation_dtype(x))
        return upfirdn2d_reference(x, filter2d, up, down, pads, gain)
    k = None if taps is not None else _kernel2d(kernel, x.device, torch.float32)
    return kernels.upfirdn2d(x, taps or (), k, *up, *down, *pads, False, float(gain))


def upfirdn2d_reference(
    x: Tensor,
    kernel: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    gain: float,
) -> Tensor:
    """The operation in plain PyTorch, with a 2-D kernel."""
    up_x, up_y = up
    n, c, h, w = x.shape
    weight = (kernel * gain).to(x.dtype).flip(0, 1)[None, None].expand(c, 1, -1, -1)
    y = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up_x - 1, 0, 0, 0, up_y - 1))
    y = F.pad(y.reshape(n, c, h * up_y, w * up_x), padding)
    if x.device.type == "meta":  # which has no autocast
        return F.conv2d(y, weight, groups=c)[:, :, :: down[1], :: down[0]]
    # Resampling keeps the dtype; autocast would round.
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(y, weight, groups=c)[:, :, :: down[1], :: down[0]]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _four(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    if isinstance(padding, int):
        return (padding,) * 4
    if len(padding) == 2:
        return (padding[0], padding[1]) * 2
    left, right, top, bottom = padding
    return left, right, top, bottom


def _taps(kernel: Kernel) -> tuple[float, ...] | None:
    """The taps of a separable filter given as numbers; None for a tensor or a 2-D filter."""
    if isinstance(kernel, Tensor) or isinstance(kernel[0], Sequence):
        return None
    return tuple([float(tap) for tap in kernel])  # type: ignore[arg-type]


def _kernel2d(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> Tensor:
    taps = _taps(kernel)
    if taps is not None:
        # Filled on the device: a copy from the host waits for a GPU, and a CUDA graph cannot
        # record it.
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


def _tap_counts(taps: Sequence[float], kernel: Tensor | None) -> Sequence[int]:
    return (len(taps),) * 2 if kernel is None else kernel.shape


def _fake(x, taps, kernel, ux, uy, dx, dy, x0, x1, y0, y1, flip, gain):
    n, c, h, w = x.shape
    taps_y, taps_x = _tap_counts(taps, kernel)
    out_h = (h * uy + y0 + y1 - taps_y) // dy + 1
    return empty_like(x, (n, c, out_h, (w * ux + x0 + x1 - taps_x) // dx + 1))


def _setup(ctx, inputs, output) -> None:
    x, ctx.taps, kernel, *ctx.rest = inputs
    ctx.size, ctx.out = x.shape[2:], output.shape[2:]
    ctx.save_for_backward(kernel)


def _adjoint_padding(size: int, out: int, up: int, down: int, before: int, taps: int):
    """Padding of the adjoint, which leads from ``out`` samples back to ``size``."""
    return taps - 1 - before, size * up - out * down + before - up + 1


def _backward(ctx, grad):
    """The adjoint of a resampling is a resampling: up and down swapped, the kernel flipped."""
    (kernel,) = ctx.saved_tensors
    ux, uy, dx, dy, x0, _, y0, _, flip, gain = ctx.rest
    taps_y, taps_x = _tap_counts(ctx.taps, kernel)
    (h, w), (out_h, out_w) = ctx.size, ctx.out
    pad_x = _adjoint_padding(w, out_w, ux, dx, x0, taps_x)
    pad_y = _adjoint_padding(h, out_h, uy, dy, y0, taps_y)
    y = kernels.upfirdn2d(grad, ctx.taps, kernel, dx, dy, ux, uy, *pad_x, *pad_y, not flip, gain)
    return (y, *[None] * 12)


def _jvp(inputs, outputs, tangents):
    _, taps, kernel, *rest = inputs
    if tangents[2] is not None:
        raise RuntimeError(
            "ddgan.ops.kernels.upfirdn2d has no derivative with respect to its kernel; call "
            "ddgan.ops.upfirdn2d, which takes the reference for that"
        )
    return (kernels.upfirdn2d(tangents[0], taps, kernel, *rest),)


differentiable("upfirdn2d", _fake, _setup, _backward, _jvp)


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
    """Filter (N, C_in, H, W), then convolve with (C_out, C_in, k, k) at stride 2, unpadded."""
    k = _normalized(kernel)
    p = len(k) - 2 + weight.shape[-1] - 1
    y = upfirdn2d(x, k, padding=((p + 1) // 2, p // 2))
    return F.conv2d(y, weight, bias, stride=2)

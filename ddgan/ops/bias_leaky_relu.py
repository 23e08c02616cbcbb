"""Bias, leaky ReLU, gain and clamp in one operation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan.ops.backend import (
    channels_last,
    compiled,
    differentiable,
    empty_like,
    empty_sums,
    kernels,
    transformed,
)


def fused_bias_leaky_relu(
    x: Tensor,
    bias: Tensor | None = None,
    negative_slope: float = 0.2,
    gain: float = 2**0.5,
    clamp: float | None = None,
) -> Tensor:
    """``clip(gain * leaky_relu(x + bias), -clamp, clamp)`` in the dtype of ``x``.

    ``x`` is (N, C, ...); ``bias`` is (C,) in any floating dtype, or None. Raises ValueError for a
    bias that does not fit or a negative clamp.
    """
    if x.ndim < 2 or (bias is not None and bias.shape != x.shape[1:2]):
        shape = None if bias is None else tuple(bias.shape)
        raise ValueError(
            f"x has shape {tuple(x.shape)} and bias {shape}; expected (N, C, ...) and (C,)"
        )
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp is {clamp}; expected None or a limit of at least 0")
    if not compiled(x):
        return bias_leaky_relu_reference(x, bias, negative_slope, gain, clamp)
    learning = x.requires_grad or (bias is not None and bias.requires_grad)
    y, _ = kernels.bias_leaky_relu(
        x,
        None if bias is None else bias.contiguous(),
        float(negative_slope),
        float(gain),
        -1.0 if clamp is None else float(clamp),
        (learning and torch.is_grad_enabled()) or transformed(),
    )
    return y


def bias_leaky_relu_reference(
    x: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float | None
) -> Tensor:
    """The operation in plain PyTorch."""
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(1, -1, *([1] * (x.ndim - 2)))
    x = F.leaky_relu(x, slope)
    if gain != 1:
        x = x * gain
    return x if clamp is None else torch.clamp(x, -clamp, clamp)


def _mask(x: Tensor, planes: int) -> Tensor:
    """Room for the mask that the backward reads; csrc/common/types.h has its layout."""
    n, c, s = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    rows, inner = (n * s, c) if x.ndim == 2 or channels_last(x) else (n * c, s)
    return torch.empty((planes, rows, (inner + 7) // 8), dtype=torch.uint8, device=x.device)


def _fake(x, bias, slope, gain, clamp, mask):
    return empty_like(x), _mask(x, 0 if not mask else 1 if clamp < 0 else 2)


def _setup(ctx, inputs, output) -> None:
    x, bias, ctx.slope, ctx.gain, _, mask = inputs
    if not mask:
        raise RuntimeError("bias_leaky_relu has a derivative only with mask=True")
    ctx.last = channels_last(x)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(ctx, grad, _mask):
    (mask,) = ctx.saved_tensors
    wanted = ctx.bias_dtype is not None and ctx.needs_input_grad[1]
    dx, db = kernels.bias_leaky_relu_backward(grad, mask, ctx.slope, ctx.gain, ctx.last, wanted)
    return dx, db.to(ctx.bias_dtype) if wanted else None, None, None, None, None


def _row(bias: Tensor, like: Tensor) -> Tensor:
    """(C,) expanded to the shape and dtype of ``like``."""
    return bias.to(like.dtype).reshape(1, -1, *[1] * (like.ndim - 2)).expand_as(like)


def _jvp(inputs, outputs, tangents):
    """The tangent of x + bias passes where a gradient would."""
    x, _, slope, gain, *_ = inputs
    dx, dbias = tangents[:2]
    total = dx if dbias is None else _row(dbias, x) if dx is None else dx + _row(dbias, x)
    last = channels_last(x)
    dy, _ = kernels.bias_leaky_relu_backward(total, outputs[1], slope, gain, last, False)
    return dy, None


def _backward_fake(grad, mask, slope, gain, channels_last, bias_grad):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    dx = torch.empty_like(grad, memory_format=memory_format)
    return dx, empty_sums(grad, grad.shape[1] if bias_grad else 0)


def _backward_setup(ctx, inputs, output) -> None:
    grad, mask, *ctx.scalars, ctx.bias_grad = inputs
    ctx.save_for_backward(mask, grad)


def _second(ctx, grad_dx, grad_db):
    """The backward is linear in the gradient, and is its own adjoint."""
    mask, grad = ctx.saved_tensors
    cotangent = grad_dx
    if ctx.bias_grad and grad_db is not None:
        row = _row(grad_db, grad)
        cotangent = row if grad_dx is None else grad_dx + row
    if cotangent is None:
        return (None,) * 6
    dgrad, _ = kernels.bias_leaky_relu_backward(cotangent, mask, *ctx.scalars, False)
    return (dgrad, *[None] * 5)


def _backward_jvp(inputs, outputs, tangents):
    return kernels.bias_leaky_relu_backward(tangents[0], *inputs[1:])


differentiable("bias_leaky_relu", _fake, _setup, _backward, _jvp)
differentiable("bias_leaky_relu_backward", _backward_fake, _backward_setup, _second, _backward_jvp)

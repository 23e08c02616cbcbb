"""Adaptive group normalization (DDGAN, Appendix C.1) with its activation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan.ops.backend import (
    accumulation_dtype,
    compiled,
    differentiable,
    empty_like,
    empty_sums,
    kernels,
)


def ada_group_norm(
    x: Tensor,
    num_groups: int,
    scale: Tensor,
    shift: Tensor,
    eps: float = 1e-6,
    activation: str | None = None,
) -> Tensor:
    """``act(scale * group_norm(x) + shift)`` with a scale and a shift per sample.

    ``x`` is (N, C, ...); ``scale`` and ``shift`` are (N, C), or (1, C) for the whole batch, in any
    floating dtype; ``activation`` is None or ``"silu"``. The result has the dtype of ``x``,
    computed in float32 (float64 for float64), under autocast too. Twice differentiable. Raises
    ValueError for shapes that do not fit.
    """
    if activation not in (None, "silu"):
        raise ValueError(f"activation is {activation!r}; expected None or 'silu'")
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected (N, C, ...) with C a multiple of "
            f"num_groups = {num_groups}"
        )
    for name, parameter in (("scale", scale), ("shift", shift)):
        if (
            parameter.ndim != 2
            or parameter.shape[1] != x.shape[1]
            or (parameter.shape[0] not in (1, x.shape[0]))
        ):
            raise ValueError(
                f"{name} has shape {tuple(parameter.shape)}; expected (N, C) or (1, C) for x of "
                f"shape {tuple(x.shape)}"
            )
    silu = activation == "silu"
    if not compiled(x):
        return ada_group_norm_reference(x, num_groups, scale, shift, eps, silu)
    return kernels.ada_group_norm(x, _rows(scale), _rows(shift), num_groups, eps, silu)[0]


def ada_group_norm_reference(
    x: Tensor, num_groups: int, scale: Tensor, shift: Tensor, eps: float, silu: bool
) -> Tensor:
    """The operation in plain PyTorch."""
    dtype = accumulation_dtype(x)
    broadcast = (*scale.shape, *([1] * (x.ndim - 2)))
    y = F.group_norm(x.to(dtype), num_groups, eps=eps)
    y = y * scale.to(dtype).reshape(broadcast) + shift.to(dtype).reshape(broadcast)
    return (F.silu(y) if silu else y).to(x.dtype)


def _rows(parameter: Tensor) -> Tensor:
    return parameter if parameter.stride(1) == 1 else parameter.contiguous()


def _fake(x, scale, shift, groups, eps, silu):
    n = x.shape[0]
    return empty_like(x), empty_sums(x, n, groups), empty_sums(x, n, groups)


def _setup(ctx, inputs, output) -> None:
    x, scale, shift, ctx.groups, _, ctx.silu = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, scale, shift, mean, rstd)


def _fit(grad: Tensor, parameter: Tensor) -> Tensor:
    """Reduce an (N, C) gradient to the parameter's shape and dtype."""
    if parameter.shape[0] != grad.shape[0]:
        grad = grad.sum(0, keepdim=True)
    return grad.to(parameter.dtype)


def _backward(ctx, grad, _mean, _rstd):
    x, scale, shift, mean, rstd = ctx.saved_tensors
    dx, dscale, dshift = kernels.ada_group_norm_backward(
        grad, x, scale, shift, mean, rstd, ctx.groups, ctx.silu
    )
    return dx, _fit(dscale, scale), _fit(dshift, shift), None, None, None


def _backward_fake(grad, x, scale, shift, mean, rstd, groups, silu):
    n, c = x.shape[:2]
    return empty_like(x), empty_sums(x, n, c), empty_sums(x, n, c)


def _backward_setup(ctx, inputs, output) -> None:
    *tensors, ctx.groups, ctx.silu = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _second(ctx, grad_grad, cot_scale, cot_shift):
    grad, x, scale, shift, mean, rstd = ctx.saved_tensors
    if grad_grad is None:
        grad_grad = torch.zeros_like(x)
    dgrad, dx, dscale, dshift = kernels.ada_group_norm_second(
        grad_grad, cot_scale, cot_shift, grad, x, scale, shift, mean, rstd, ctx.groups, ctx.silu
    )
    return dgrad, dx, _fit(dscale, scale), _fit(dshift, shift), None, None, None, None


def _second_fake(grad_grad, cot_scale, cot_shift, grad, x, scale, shift, mean, rstd, groups, silu):
    n, c = x.shape[:2]
    return empty_like(x), empty_like(x), empty_sums(x, n, c), empty_sums(x, n, c)


def _second_setup(ctx, inputs, output) -> None:
    """Nothing to keep: there is no third derivative."""


def _third_refused(ctx, *grads):
    raise RuntimeError(
        "ada_group_norm is compiled up to its second derivative; for a third one, compute the "
        "forward inside `with ddgan.ops.backend('torch')`"
    )


differentiable("ada_group_norm", _fake, _setup, _backward)
differentiable("ada_group_norm_backward", _backward_fake, _backward_setup, _second)
differentiable("ada_group_norm_second", _second_fake, _second_setup, _third_refused)

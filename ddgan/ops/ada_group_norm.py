"""Adaptive group normalization (DDGAN, Appendix C.1) with its activation."""

from collections.abc import Sequence

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
    computed in float32 (float64 for float64), under autocast too. Twice differentiable, in
    reverse mode and once in forward mode. Raises ValueError for shapes that do not fit.
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


def _derivative_of_backward(
    tangents: Sequence[Tensor | None], grad: Tensor, statistics: Sequence, options: Sequence
):
    """The second operator, along tangents (or cotangents) of x, scale and shift; None is zero.

    Its results are J v, the tangent of y, and H v, the tangents of the gradients: the Hessian H of
    <grad, y> is symmetric, so its products with tangents are those with cotangents.
    """
    x = statistics[0]
    dx = torch.zeros_like(x) if tangents[0] is None else tangents[0]
    shape = x.shape[:2]
    rows = [
        None if row is None else row.to(accumulation_dtype(x)).expand(shape) for row in tangents[1:]
    ]
    return kernels.ada_group_norm_second(dx, *rows, grad, *statistics, *options)


def _jvp(inputs, outputs, tangents):
    x, scale, shift, groups, _, silu = inputs
    statistics = (x, scale, shift, *outputs[1:])
    dy, *_ = _derivative_of_backward(tangents[:3], x, statistics, (groups, silu))
    return dy, None, None


def _backward_fake(grad, x, scale, shift, mean, rstd, groups, silu):
    n, c = x.shape[:2]
    return empty_like(x), empty_sums(x, n, c), empty_sums(x, n, c)


def _backward_setup(ctx, inputs, output) -> None:
    *tensors, ctx.groups, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _second(ctx, *cotangents):
    grad, *statistics = ctx.saved_tensors
    dgrad, dx, dscale, dshift = _derivative_of_backward(
        cotangents, grad, statistics, (ctx.groups, ctx.silu)
    )
    scale, shift = statistics[1:3]
    return dgrad, dx, _fit(dscale, scale), _fit(dshift, shift), None, None, None, None


def _backward_jvp(inputs, outputs, tangents):
    """Linear in the gradient; the statistics' tangents are part of that of x."""
    grad, *statistics, groups, silu = inputs
    terms = []
    if tangents[0] is not None:
        terms.append(kernels.ada_group_norm_backward(tangents[0], *inputs[1:]))
    if any(tangent is not None for tangent in tangents[1:4]):
        _, *of_inputs = _derivative_of_backward(tangents[1:4], grad, statistics, (groups, silu))
        terms.append(of_inputs)
    return tuple(sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True))


def _second_fake(grad_grad, cot_scale, cot_shift, grad, x, scale, shift, mean, rstd, groups, silu):
    n, c = x.shape[:2]
    return empty_like(x), empty_like(x), empty_sums(x, n, c), empty_sums(x, n, c)


def _second_setup(ctx, inputs, output) -> None:
    *tensors, ctx.groups, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _second_backward(ctx, cotangent, *others):
    """The derivatives of J v: those of <cotangent, J v>. Those of H v are third ones of y."""
    if any(other is not None for other in others):
        _refuse_third()
    *tangents, _, x, scale, shift, mean, rstd = ctx.saved_tensors
    statistics, options = (x, scale, shift, mean, rstd), (ctx.groups, ctx.silu)
    of_tangents = kernels.ada_group_norm_backward(cotangent, *statistics, *options)
    _, dx, dscale, dshift = _derivative_of_backward(tangents, cotangent, statistics, options)
    return (
        *(None if tangent is None else d for tangent, d in zip(tangents, of_tangents, strict=True)),
        None,
        dx,
        _fit(dscale, scale),
        _fit(dshift, shift),
        *[None] * 4,
    )


def _second_jvp(inputs, outputs, tangents):
    _refuse_third()


def _refuse_third():
    raise RuntimeError(
        "ada_group_norm is compiled up to its second derivative, and not for forward mode over "
        "forward mode; for these, compute inside `with ddgan.ops.backend('torch')`"
    )


differentiable("ada_group_norm", _fake, _setup, _backward, _jvp)
differentiable("ada_group_norm_backward", _backward_fake, _backward_setup, _second, _backward_jvp)
differentiable("ada_group_norm_second", _second_fake, _second_setup, _second_backward, _second_jvp)

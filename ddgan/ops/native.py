"""Shape inference and derivatives of the compiled operators, registered with PyTorch.

Every derivative is itself an operator: the adjoint of a resampling is a resampling, the backward
of bias + leaky ReLU is linear in the gradient and its own adjoint, AdaGN has a first and a second
backward, and those of a convolution are convolutions and gradients of weights. Imported only where
the library loads.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ddgan.ops import library

ops = torch.ops.ddgan


def channels_last(x: Tensor) -> bool:
    """Whether the kernels read ``x`` as (N, H, W, C); csrc/bindings.cpp has the same rule."""
    return x.ndim == 4 and not x.is_contiguous() and x.stride(1) == 1 and x.stride(3) >= x.size(1)


def _like(x: Tensor, shape: Any = None) -> Tensor:
    memory_format = torch.channels_last if channels_last(x) else torch.contiguous_format
    size = x.shape if shape is None else shape
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format)


def _statistics(x: Tensor, *shape: int) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.empty(shape, dtype=dtype, device=x.device)


def _fir_size(size: int, up: int, down: int, before: int, after: int, taps: int) -> int:
    return (size * up + before + after - taps) // down + 1


def _upfirdn2d_fake(x, taps, kernel, ux, uy, dx, dy, x0, x1, y0, y1, flip, gain):
    n, c, h, w = x.shape
    taps_y, taps_x = (len(taps),) * 2 if kernel is None else kernel.shape
    return _like(
        x, (n, c, _fir_size(h, uy, dy, y0, y1, taps_y), _fir_size(w, ux, dx, x0, x1, taps_x))
    )


def _upfirdn2d_setup(ctx, inputs, output) -> None:
    x, taps, kernel, *rest = inputs
    ctx.size = x.shape[2:]
    ctx.out = output.shape[2:]
    ctx.taps, ctx.rest = taps, rest
    ctx.save_for_backward(kernel)


def _adjoint_padding(size: int, out: int, up: int, down: int, before: int, taps: int):
    """Padding of the transposed resampling, which leads from ``out`` samples back to ``size``."""
    return taps - 1 - before, size * up - out * down + before - up + 1


def _upfirdn2d_backward(ctx, grad):
    (kernel,) = ctx.saved_tensors
    ux, uy, dx, dy, x0, _, y0, _, flip, gain = ctx.rest
    taps_y, taps_x = (len(ctx.taps),) * 2 if kernel is None else kernel.shape
    (h, w), (out_h, out_w) = ctx.size, ctx.out
    pad_x = _adjoint_padding(w, out_w, ux, dx, x0, taps_x)
    pad_y = _adjoint_padding(h, out_h, uy, dy, y0, taps_y)
    y = ops.upfirdn2d(grad, ctx.taps, kernel, dx, dy, ux, uy, *pad_x, *pad_y, not flip, gain)
    return (y, *[None] * 12)


def _bias_act_mask(x: Tensor, planes: int) -> Tensor:
    """Return room for the mask of bias_leaky_relu; csrc/common/types.h has its layout."""
    n, c, s = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    rows, inner = (n * s, c) if x.ndim == 2 or channels_last(x) else (n * c, s)
    return torch.empty((planes, rows, (inner + 7) // 8), dtype=torch.uint8, device=x.device)


def _bias_act_fake(x, bias, slope, gain, clamp, mask):
    return _like(x), _bias_act_mask(x, 0 if not mask else 1 if clamp < 0 else 2)


def _bias_act_setup(ctx, inputs, output) -> None:
    x, bias, ctx.slope, ctx.gain, _, mask = inputs
    if not mask:
        raise RuntimeError("bias_leaky_relu has a derivative only with mask=True")
    ctx.last = channels_last(x)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _bias_act_backward(ctx, grad, _mask):
    if grad is None:
        return (None,) * 6
    (mask,) = ctx.saved_tensors
    wanted = ctx.bias_dtype is not None and ctx.needs_input_grad[1]
    dx, db = ops.bias_leaky_relu_backward(grad, mask, ctx.slope, ctx.gain, ctx.last, wanted)
    return dx, db.to(ctx.bias_dtype) if wanted else None, None, None, None, None


def _bias_act_backward_fake(grad, mask, slope, gain, channels_last, bias_grad):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    dx = torch.empty_like(grad, memory_format=memory_format)
    return dx, _statistics(grad, grad.shape[1] if bias_grad else 0)


def _bias_act_backward_setup(ctx, inputs, output) -> None:
    grad, mask, *ctx.scalars, ctx.bias_grad = inputs
    ctx.shape, ctx.dtype = grad.shape, grad.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(mask)


def _bias_act_second(ctx, grad_dx, grad_db):
    cotangent = grad_dx
    if ctx.bias_grad and grad_db is not None:
        row = grad_db.to(ctx.dtype).reshape(1, -1, *[1] * (len(ctx.shape) - 2))
        cotangent = row.expand(ctx.shape) if grad_dx is None else grad_dx + row
    if cotangent is None:
        return (None,) * 6
    (mask,) = ctx.saved_tensors
    grad, _ = ops.bias_leaky_relu_backward(cotangent, mask, *ctx.scalars, False)
    return (grad, *[None] * 5)


def _norm_fake(x, scale, shift, groups, eps, silu):
    n = x.shape[0]
    return _like(x), _statistics(x, n, groups), _statistics(x, n, groups)


def _norm_setup(ctx, inputs, output) -> None:
    x, scale, shift, ctx.groups, _, ctx.silu = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, scale, shift, mean, rstd)


def _fit(grad: Tensor, parameter: Tensor) -> Tensor:
    """Reduce an (N, C) gradient to the parameter's shape and dtype."""
    if parameter.shape[0] != grad.shape[0]:
        grad = grad.sum(0, keepdim=True)
    return grad.to(parameter.dtype)


def _norm_backward(ctx, grad, _mean, _rstd):
    x, scale, shift, mean, rstd = ctx.saved_tensors
    dx, dscale, dshift = ops.ada_group_norm_backward(
        grad, x, scale, shift, mean, rstd, ctx.groups, ctx.silu
    )
    return dx, _fit(dscale, scale), _fit(dshift, shift), None, None, None


def _norm_backward_fake(grad, x, scale, shift, mean, rstd, groups, silu):
    n, c = x.shape[:2]
    return _like(x), _statistics(x, n, c), _statistics(x, n, c)


def _norm_backward_setup(ctx, inputs, output) -> None:
    *tensors, ctx.groups, ctx.silu = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _norm_second(ctx, grad_grad, cot_scale, cot_shift):
    grad, x, scale, shift, mean, rstd = ctx.saved_tensors
    if grad_grad is None:
        grad_grad = torch.zeros_like(x)
    dgrad, dx, dscale, dshift = ops.ada_group_norm_second(
        grad_grad, cot_scale, cot_shift, grad, x, scale, shift, mean, rstd, ctx.groups, ctx.silu
    )
    return dgrad, dx, _fit(dscale, scale), _fit(dshift, shift), None, None, None, None


def _third_setup(ctx, inputs, output) -> None:
    """Nothing to keep: there is no third derivative."""


def _third_refused(ctx, *grads):
    raise RuntimeError(
        "ada_group_norm is compiled up to its second derivative; for a third one, compute the "
        "forward inside `with ddgan.ops.backend('torch')`"
    )


def _norm_second_fake(
    grad_grad, cot_scale, cot_shift, grad, x, scale, shift, mean, rstd, groups, silu
):
    n, c = x.shape[:2]
    return _like(x), _like(x), _statistics(x, n, c), _statistics(x, n, c)


def _laid_out_as(x: Tensor, like: Tensor) -> Tensor:
    last = channels_last(like)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _conv_fake(x, weight, bias, transposed):
    return _like(x, (x.shape[0], weight.shape[1 if transposed else 0], *x.shape[2:]))


def _wanted(ctx) -> list[bool]:
    """Whether the running backward uses the gradient of each input that is a tensor.

    ``needs_input_grad`` says which ones require a gradient, among them weights while
    ``autograd.grad`` asks for that of the images alone, as R1 does.
    """

    def runs(node: Any) -> bool:
        try:
            return node is not None and torch._C._will_engine_execute_node(node)
        except RuntimeError:  # a leaf whose gradient autograd.grad returns
            return True

    return [runs(node) for node, _ in ctx.next_functions]


def _conv_setup(ctx, inputs, output) -> None:
    x, weight, _, ctx.transposed = inputs
    ctx.save_for_backward(x, weight)


def _conv_backward(ctx, grad):
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, wants_bias, *_ = [*_wanted(ctx), False]
    grad = _laid_out_as(grad, x)
    dx = dweight = dbias = None
    if wants_x:
        dx = ops.conv3x3(grad, weight, None, not ctx.transposed)
    if wants_weight or wants_bias:
        pair = (grad, x) if ctx.transposed else (x, grad)
        fused = wants_bias and not ctx.transposed
        dweight, dbias = ops.conv3x3_weight(*pair, fused, channels_last(weight))
        dbias = dbias if fused else grad.sum((0, 2, 3)) if wants_bias else None
    return dx, dweight if wants_weight else None, dbias, None


def _conv_weight_fake(x, grad, bias_grad, weight_channels_last):
    c, k = x.shape[1], grad.shape[1]
    layout = torch.channels_last if weight_channels_last else torch.contiguous_format
    dweight = torch.empty((k, c, 3, 3), dtype=x.dtype, device=x.device, memory_format=layout)
    return dweight, x.new_empty(k if bias_grad else 0)


def _conv_weight_setup(ctx, inputs, output) -> None:
    x, grad, ctx.bias_grad, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, grad)


def _conv_weight_backward(ctx, cot_weight, cot_bias):
    x, grad = ctx.saved_tensors
    if not ctx.bias_grad:
        cot_bias = None
    if cot_weight is None:
        cotangent = None if cot_bias is None else cot_bias[None, :, None, None].expand_as(grad)
        return None, cotangent, None, None
    wants_x, wants_grad = _wanted(ctx)
    dx = ops.conv3x3(grad, cot_weight, None, True) if wants_x else None
    dgrad = ops.conv3x3(x, cot_weight, cot_bias, False) if wants_grad else None
    return dx, dgrad, None, None


def _register_autograd(name: str, backward: Callable, setup: Callable) -> None:
    """Do what ``torch.library.register_autograd`` does in half its time.

    That inspects the schema in every call, for 30 to 70 µs: more than a small tensor takes.
    """
    op = getattr(ops, name).default

    def run(keyset: torch._C.DispatchKeySet, inputs: Sequence[Any]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)

    class Derivative(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs_and_keyset):
            *inputs, keyset = inputs_and_keyset
            output = run(keyset, inputs)
            setup(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx, *grads):
            return (*backward(ctx, *grads), None)

    def kernel(keyset, *inputs):
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return Derivative.apply(*inputs, keyset)
        return run(keyset, inputs)

    _autograd.impl(name, kernel, "Autograd", with_keyset=True)


def register() -> None:
    """Register everything above; once, right after the library was loaded."""
    fakes = {
        "upfirdn2d": _upfirdn2d_fake,
        "bias_leaky_relu": _bias_act_fake,
        "bias_leaky_relu_backward": _bias_act_backward_fake,
        "ada_group_norm": _norm_fake,
        "ada_group_norm_backward": _norm_backward_fake,
        "ada_group_norm_second": _norm_second_fake,
        "conv3x3": _conv_fake,
        "conv3x3_weight": _conv_weight_fake,
    }
    derivatives = {
        "upfirdn2d": (_upfirdn2d_backward, _upfirdn2d_setup),
        "bias_leaky_relu": (_bias_act_backward, _bias_act_setup),
        "bias_leaky_relu_backward": (_bias_act_second, _bias_act_backward_setup),
        "ada_group_norm": (_norm_backward, _norm_setup),
        "ada_group_norm_backward": (_norm_second, _norm_backward_setup),
        "ada_group_norm_second": (_third_refused, _third_setup),
        "conv3x3": (_conv_backward, _conv_setup),
        "conv3x3_weight": (_conv_weight_backward, _conv_weight_setup),
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"ddgan::{name}", fake)
    for name, (backward, setup) in derivatives.items():
        _register_autograd(name, backward, setup)


if library.load() is None:
    _autograd = torch.library.Library("ddgan", "FRAGMENT")
    register()

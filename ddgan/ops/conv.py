"""Convolutions of stride 1 that keep the size, on CPUs by Winograd's minimal filtering."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan.ops.backend import (
    channels_last,
    compiled,
    cpu_capability,
    differentiable,
    empty_like,
    gradients_wanted,
    kernels,
    layout_of,
)

# Vectors have up to 16 lanes, and transforming the weights costs about as much as this many tiles
# of 4 x 4 pixels gain.
_MIN_CHANNELS = 16
_MIN_TILES = 16


def same_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve (N, C, H, W) with (K, C, k, k), k odd, into (N, K, H, W), padding with zeros.

    On CPUs with AVX2 or AVX-512, 3 x 3 convolutions in float32 of 16 or more channels take about
    half of PyTorch's time, by F(4 x 4, 3 x 3) of Lavin and Gray, arXiv:1509.09308; their rounding
    errors are about 1e-6 of the results' norm. Differentiable any number of times.
    """
    if _winograd_pays(x, weight):
        return kernels.conv3x3(x, weight, bias, False)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


@torch.compiler.assume_constant_result
def _has_vectors() -> bool:
    return cpu_capability() != "baseline"


def _winograd_pays(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or weight.shape[2:] != (3, 3) or not compiled(x):
        return False
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    n, _, h, w = x.shape
    tiles = n * ((h + 3) // 4) * ((w + 3) // 4)
    mostly_full = 16 * tiles <= 2 * n * h * w  # a tile hangs over the edge of small odd sizes
    enough = tiles >= _MIN_TILES and min(weight.shape[:2]) >= _MIN_CHANNELS
    return mostly_full and enough and _has_vectors()


def _fake(x, weight, bias, transposed):
    return empty_like(x, (x.shape[0], weight.shape[1 if transposed else 0], *x.shape[2:]))


def _setup(ctx, inputs, output) -> None:
    x, weight, _, ctx.transposed = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad):
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, wants_bias = [*gradients_wanted(ctx), False][:3]
    grad = grad.contiguous(memory_format=layout_of(x))
    dx = dweight = dbias = None
    if wants_x:
        dx = kernels.conv3x3(grad, weight, None, not ctx.transposed)
    if wants_weight or wants_bias:
        pair = (grad, x) if ctx.transposed else (x, grad)
        fused = wants_bias and not ctx.transposed
        dweight, dbias = kernels.conv3x3_weight(*pair, fused, channels_last(weight))
        dbias = dbias if fused else grad.sum((0, 2, 3)) if wants_bias else None
    return dx, dweight if wants_weight else None, dbias, None


def _jvp(inputs, outputs, tangents):
    x, weight, _, transposed = inputs
    dx, dweight, dbias, _ = tangents
    terms = []
    if dx is not None:
        terms.append(kernels.conv3x3(dx, weight, None, transposed))
    if dweight is not None:
        terms.append(kernels.conv3x3(x, dweight, None, transposed))
    if dbias is not None:
        terms.append(dbias[None, :, None, None].expand_as(outputs[0]))
    return (sum(terms[1:], terms[0]),)


def _weight_fake(x, grad, bias_grad, weight_channels_last):
    c, k = x.shape[1], grad.shape[1]
    layout = torch.channels_last if weight_channels_last else torch.contiguous_format
    dweight = torch.empty((k, c, 3, 3), dtype=x.dtype, device=x.device, memory_format=layout)
    return dweight, x.new_empty(k if bias_grad else 0)


def _weight_setup(ctx, inputs, output) -> None:
    x, grad, ctx.bias_grad, _ = inputs
    ctx.save_for_backward(x, grad)


def _weight_backward(ctx, cot_weight, cot_bias):
    x, grad = ctx.saved_tensors
    if not ctx.bias_grad:
        cot_bias = None
    if cot_weight is None:
        cotangent = None if cot_bias is None else cot_bias[None, :, None, None].expand_as(grad)
        return None, cotangent, None, None
    wants_x, wants_grad = gradients_wanted(ctx)
    dx = kernels.conv3x3(grad, cot_weight, None, True) if wants_x else None
    dgrad = kernels.conv3x3(x, cot_weight, cot_bias, False) if wants_grad else None
    return dx, dgrad, None, None


def _weight_jvp(inputs, outputs, tangents):
    """Linear in x and in the gradient."""
    x, grad, bias_grad, last = inputs
    dx, dgrad = tangents[:2]
    weight = bias = None
    if dgrad is not None:
        weight, bias = kernels.conv3x3_weight(x, dgrad, bias_grad, last)
    if dx is not None:
        of_x, _ = kernels.conv3x3_weight(dx, grad, False, last)
        weight = of_x if weight is None else weight + of_x
    return weight, torch.zeros_like(outputs[1]) if bias is None else bias


# Each derivative is made of the two operators, so there are derivatives of any order.
differentiable("conv3x3", _fake, _setup, _backward, _jvp)
differentiable("conv3x3_weight", _weight_fake, _weight_setup, _weight_backward, _weight_jvp)

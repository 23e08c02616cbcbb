"""Bias, leaky ReLU, gain and clamp in one operation."""

import torch
from torch import Tensor

from ddgan.ops import native, reference
from ddgan.ops.selection import compiled


def fused_bias_leaky_relu(
    x: Tensor,
    bias: Tensor | None = None,
    negative_slope: float = 0.2,
    gain: float = 2**0.5,
    clamp: float | None = None,
) -> Tensor:
    """Return ``clip(gain * leaky_relu(x + bias), -clamp, clamp)`` in the dtype of ``x``.

    ``x`` is (N, C, ...) and ``bias`` is (C,) in any floating dtype, or None for no bias. Raises
    ValueError for a bias that does not fit or a negative clamp.
    """
    if x.ndim < 2 or (bias is not None and bias.shape != x.shape[1:2]):
        shape = None if bias is None else tuple(bias.shape)
        raise ValueError(
            f"x has shape {tuple(x.shape)} and bias {shape}; expected (N, C, ...) and (C,)"
        )
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp is {clamp}; expected None or a limit of at least 0")
    if not compiled(x):
        return reference.bias_leaky_relu(x, bias, negative_slope, gain, clamp)
    needed = x.requires_grad or (bias is not None and bias.requires_grad)
    y, _ = native.ops.bias_leaky_relu(
        x,
        None if bias is None else bias.contiguous(),
        float(negative_slope),
        float(gain),
        -1.0 if clamp is None else float(clamp),
        needed and torch.is_grad_enabled(),
    )
    return y

"""Bias, leaky ReLU, gain and clamp in one operation."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fused_bias_leaky_relu(
    x: Tensor,
    bias: Tensor | None = None,
    negative_slope: float = 0.2,
    gain: float = 2**0.5,
    clamp: float | None = None,
) -> Tensor:
    """Return ``clip(gain * leaky_relu(x + bias), -clamp, clamp)`` in the dtype of ``x``.

    ``x`` is (N, C, ...) and ``bias`` is (C,), or None for no bias.
    """
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(1, -1, *([1] * (x.ndim - 2)))
    x = F.leaky_relu(x, negative_slope)
    if gain != 1:
        x = x * gain
    return x if clamp is None else torch.clamp(x, -clamp, clamp)

"""Adaptive group normalization with its activation."""

import torch.nn.functional as F
from torch import Tensor


def ada_group_norm(
    x: Tensor,
    num_groups: int,
    scale: Tensor,
    shift: Tensor,
    eps: float = 1e-6,
    activation: str | None = None,
) -> Tensor:
    """Return ``act(scale * group_norm(x) + shift)`` with a scale and a shift per sample.

    ``x`` is (N, C, H, W); ``scale`` and ``shift`` are (N, C), or (1, C) to share them over the
    batch; ``activation`` is None or ``"silu"``. (DDGAN, Appendix C.1.)
    """
    if activation not in (None, "silu"):
        raise ValueError(f"activation is {activation!r}; expected None or 'silu'")
    broadcast = (*scale.shape, *([1] * (x.ndim - 2)))
    y = F.group_norm(x, num_groups, eps=eps)
    y = y * scale.reshape(broadcast) + shift.reshape(broadcast)
    return F.silu(y) if activation == "silu" else y

"""Adaptive group normalization with its activation."""

from torch import Tensor

from ddgan.ops import native, reference
from ddgan.ops.selection import compiled


def _rows(parameter: Tensor) -> Tensor:
    return parameter if parameter.stride(1) == 1 else parameter.contiguous()


def ada_group_norm(
    x: Tensor,
    num_groups: int,
    scale: Tensor,
    shift: Tensor,
    eps: float = 1e-6,
    activation: str | None = None,
) -> Tensor:
    """Return ``act(scale * group_norm(x) + shift)`` with a scale and a shift per sample.

    ``x`` is (N, C, ...); ``scale`` and ``shift`` are (N, C), or (1, C) to share them over the
    batch, in any floating dtype; ``activation`` is None or ``"silu"``. The result has the dtype of
    ``x``, computed in float32 (float64 for float64), under autocast too. Twice differentiable.
    Raises ValueError for shapes that do not fit. (DDGAN, Appendix C.1.)
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
    if not compiled(x):
        return reference.ada_group_norm(x, num_groups, scale, shift, eps, activation == "silu")
    y, _, _ = native.ops.ada_group_norm(
        x, _rows(scale), _rows(shift), num_groups, eps, activation == "silu"
    )
    return y

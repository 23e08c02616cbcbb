"""Samplers: functions of a step, a start and a callback."""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, int], Tensor]
Callback = Callable[[int, Tensor], None]


def time_index(t: Tensor | int, x: Tensor) -> Tensor:
    """The 0-based indices t - 1 (N,) that networks take, of times (N,), or of one t for all of x.

    For one t it is an expanded tensor (stride 0), so that a network can compute the embedding once.
    """
    if isinstance(t, int):
        return torch.full((1,), t - 1, device=x.device).expand(x.shape[0])
    return t - 1


def ancestral(
    step: Step,
    x_start: Tensor,
    start_step: int,
    stop_step: int = 0,
    callback: Callback | None = None,
) -> Tensor:
    """Draw x_{stop_step} by ancestral sampling from ``x_start`` = x_{start_step}.

    ``step(x_t, t)`` draws x_{t-1}; it is called for t = start_step, …, stop_step + 1.
    ``callback(t, x_t)`` is called after each step with the new state, the last time with
    ``stop_step``. Start from x_T ~ N(0, I) to generate, from a diffused image to edit it.
    """
    if not 0 <= stop_step <= start_step:
        raise ValueError(
            f"start_step is {start_step} and stop_step is {stop_step}; "
            "expected 0 <= stop_step <= start_step"
        )
    x = x_start
    for t in range(start_step, stop_step, -1):
        x = step(x, t)
        if callback is not None:
            callback(t - 1, x)
    return x

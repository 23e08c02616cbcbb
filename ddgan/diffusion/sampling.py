"""Samplers: functions of a step, a start and a callback."""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, int], Tensor]
Callback = Callable[[int, Tensor], None]


def shared_index(index: int, x: Tensor) -> Tensor:
    """Return the (N,) time indices of a batch ``x`` (N, …) that is at one time.

    They are one number in memory, by whose stride of 0 a network sees that it may embed it once.
    """
    return torch.full((1,), index, device=x.device).expand(len(x))


def ancestral(
    step: Step,
    x_start: Tensor,
    start_step: int,
    stop_step: int = 0,
    callback: Callback | None = None,
) -> Tensor:
    """Return x_{stop_step} by ancestral sampling from ``x_start`` = x_{start_step}.

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

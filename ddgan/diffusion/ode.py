"""Initial-value problems dh/dt = f(t, h) with fixed steps, as pure functions that compile.

A solver with fixed steps is a function of its grid: with the times asked for as its grid, h(1)
would depend on which other times were asked for, and sampling, which asks for h(1) alone, would
run on another grid than training did. Here the grid is given once; ``states_at`` reaches a time in
between by one shorter step that leaves the grid, so no h depends on the other times.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

# f(t, h) → dh/dt; t is a number, or a tensor that broadcasts against h.
Derivative = Callable[[Tensor | float, Tensor], Tensor]
Step = Callable[[Derivative, Tensor | float, Tensor, Tensor | float], Tensor]


def euler_step(f: Derivative, t: Tensor | float, h: Tensor, dt: Tensor | float) -> Tensor:
    """h(t + dt) by Euler's method, of order 1."""
    return _add(h, f(t, h), dt)


def midpoint_step(f: Derivative, t: Tensor | float, h: Tensor, dt: Tensor | float) -> Tensor:
    """h(t + dt) by the explicit midpoint method, of order 2."""
    return _add(h, f(t + dt / 2, _add(h, f(t, h), dt / 2)), dt)


def rk4_step(f: Derivative, t: Tensor | float, h: Tensor, dt: Tensor | float) -> Tensor:
    """h(t + dt) by the classical Runge-Kutta method, of order 4."""
    k1 = f(t, h)
    k2 = f(t + dt / 2, _add(h, k1, dt / 2))
    k3 = f(t + dt / 2, _add(h, k2, dt / 2))
    k4 = f(t + dt, _add(h, k3, dt))
    slopes = torch.add(torch.add(torch.add(k1, k2, alpha=2), k3, alpha=2), k4)
    return _add(h, slopes, dt / 6)


def _add(h: Tensor, slope: Tensor, dt: Tensor | float) -> Tensor:
    """h + dt slope in one operation: on a GPU the launches of small ones are what they cost."""
    if isinstance(dt, Tensor):
        return torch.addcmul(h, dt, slope)
    return torch.add(h, slope, alpha=dt)


METHODS: dict[str, Step] = {"euler": euler_step, "midpoint": midpoint_step, "rk4": rk4_step}


def integrate(f: Derivative, h0: Tensor, grid: list[float], method: str = "rk4") -> list[Tensor]:
    """h at each time of ``grid``, which increases and begins at the time of ``h0``."""
    step = METHODS[method]
    states = [h0]
    for start, stop in pairwise(grid):
        states.append(step(f, start, states[-1], stop - start))
    return states


def states_at(
    f: Derivative, grid: Tensor, states: list[Tensor], times: Tensor, method: str = "rk4"
) -> Tensor:
    """h at ``times`` (K,), in any order and within the grid (M,), as (K, N, D).

    ``states`` are the M of ``integrate``, (N, D) each. Each time is reached from the last point of
    the grid that is not after it; at a point of the grid h is the state itself.
    """
    index = (torch.bucketize(times, grid, right=True) - 1).clamp(0, len(grid) - 1)
    start = grid[index][:, None, None]
    return METHODS[method](f, start, torch.stack(states)[index], times[:, None, None] - start)

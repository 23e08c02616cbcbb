"""The reverse of the variance-preserving SDE with an exact score (Song et al., 2021, Eq. 6)."""

import math

import torch
from torch import Tensor

from ddgan.diffusion.schedules import vp_variance
from ddgan.visualization.mixture import GaussianMixture


def vp_alpha_bar(time: float, beta_min: float = 0.1, beta_max: float = 20.0) -> float:
    """Return ᾱ at a time in [0, 1] of the SDE, 1 at 0: the squared share of x_0 in x."""
    return 1 - float(vp_variance(torch.tensor(time, dtype=torch.float64), beta_min, beta_max))


def reverse_sde(
    data: GaussianMixture,
    x_T: Tensor,
    num_steps: int,
    generator: torch.Generator,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
) -> Tensor:
    """Return the states (num_steps + 1, N, D) of the reverse SDE from x_T (N, D) at time 1 to 0.

    Steps of Euler and Maruyama, equal in time, with the score of the diffused ``data``; the last
    one, to time 0, goes to the mean of x_0 instead of adding noise.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}; expected at least 2")
    step = 1 / num_steps
    x = x_T.double()
    states = [x]
    for i in range(num_steps, 1, -1):
        time = i * step
        beta = beta_min + (beta_max - beta_min) * time
        score = data.diffused(vp_alpha_bar(time, beta_min, beta_max)).score(x)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = x + beta * step * (0.5 * x + score) + math.sqrt(beta * step) * noise
        states.append(x)
    # E[x_0 | x_t], by Tweedie's formula.
    alpha_bar = vp_alpha_bar(step, beta_min, beta_max)
    x0 = (x + (1 - alpha_bar) * data.diffused(alpha_bar).score(x)) / math.sqrt(alpha_bar)
    return torch.stack([*states, x0])

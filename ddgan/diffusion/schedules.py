"""Noise schedules: the variances β_1, …, β_T of the forward process, in float64."""

import torch
from torch import Tensor


def vp_variance(time: Tensor, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """σ²(t') of the variance-preserving SDE at normalised times in [0, 1] (App. C.2)."""
    return -torch.expm1(-beta_min * time - 0.5 * (beta_max - beta_min) * time**2)


def vp_betas(
    num_steps: int, beta_min: float = 0.1, beta_max: float = 20.0, time_epsilon: float = 0.0
) -> Tensor:
    """(T,) variances of the variance-preserving schedule, DDGAN Eq. 16.

    ``time_epsilon`` squeezes the normalised time to [time_epsilon, 1]: 0 is the paper's equation,
    1e-3 what the official release computes.
    """
    _check_num_steps(num_steps)
    if not 0 <= beta_min <= beta_max:
        raise ValueError(
            f"beta_min is {beta_min} and beta_max is {beta_max}; expected 0 <= beta_min <= beta_max"
        )
    if not 0 <= time_epsilon < 1:
        raise ValueError(f"time_epsilon is {time_epsilon}; expected a value in [0, 1)")
    time = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    time = time * (1 - time_epsilon) + time_epsilon
    # β_t = 1 - exp(-∫β), from the difference of the exponents: stable for a thousand steps, where
    # 1 - alpha_bar_t / alpha_bar_{t-1} would cancel.
    exponent = beta_min * time + 0.5 * (beta_max - beta_min) * time**2
    return -torch.expm1(exponent[:-1] - exponent[1:])


def geometric_betas(
    num_steps: int, variance_min: float = 1e-4, variance_max: float = 0.9999
) -> Tensor:
    """(T,) variances for which 1 - alpha_bar_t grows geometrically.

    1 - alpha_bar_t runs from ``variance_min`` at time 0, where it is treated as no noise, to
    ``variance_max`` at T; both lie in (0, 1).
    """
    _check_num_steps(num_steps)
    if not 0 < variance_min < variance_max < 1:
        raise ValueError(
            f"variance_min is {variance_min} and variance_max is {variance_max}; expected "
            "0 < variance_min < variance_max < 1, since they are variances of x_t for unit data"
        )
    time = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    alpha_bar = 1 - variance_min * (variance_max / variance_min) ** time
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


def linear_betas(num_steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Tensor:
    """(T,) variances that rise linearly from ``beta_min`` / T to ``beta_max`` / T.

    With T = 1000 these are DDPM's, 1e-4 to 0.02 (Ho et al., 2020, Sec. 4); fewer steps are larger
    in proportion, so that x_T is as noisy. Raises ValueError where a variance would reach 1.
    """
    _check_num_steps(num_steps)
    if not 0 < beta_min <= beta_max < num_steps:
        raise ValueError(
            f"beta_min is {beta_min} and beta_max is {beta_max}; expected 0 < beta_min <= beta_max "
            f"< num_steps, here {num_steps}: more steps, or schedule='vp' for few"
        )
    return torch.linspace(beta_min, beta_max, num_steps, dtype=torch.float64) / num_steps


def _check_num_steps(num_steps: int) -> None:
    if not 1 <= num_steps <= 1000:
        raise ValueError(f"num_steps is {num_steps}; expected a number of steps from 1 to 1000")

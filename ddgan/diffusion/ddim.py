"""Sampling on fewer steps than the diffusion was defined with (Song et al., 2021, "DDIM")."""

from collections.abc import Callable

import torch
from torch import Tensor

from ddgan.diffusion.process import Diffusion

SPACINGS = ("linear", "quadratic")


def sub_steps(num_steps: int, count: int, spacing: str = "linear") -> list[int]:
    """``count`` increasing times τ_1 < … < τ_count = T of {1, …, T} (Sec. 4.2, App. D.2).

    ``"linear"`` spaces them evenly; ``"quadratic"`` makes them denser near the data, as T (i / S)²
    where that leaves them distinct. Raises ValueError for a count outside {1, …, T} or another
    spacing.
    """
    if not 1 <= count <= num_steps:
        raise ValueError(f"{count} sampling steps; expected 1 to {num_steps}, the T of training")
    if spacing not in SPACINGS:
        raise ValueError(f"spacing is {spacing!r}; expected one of {[*SPACINGS]}")
    power = 1 if spacing == "linear" else 2
    taus: list[int] = []
    for i in range(1, count + 1):
        # At least the previous time plus 1, and room for those that follow.
        least = taus[-1] + 1 if taus else 1
        taus.append(max(least, round(num_steps * (i / count) ** power)))
    return taus


def ddim_step(
    diffusion: Diffusion,
    x_t: Tensor,
    eps: Tensor,
    t: int,
    s: int,
    noise: Tensor | None = None,
    eta: float = 0.0,
    clip: bool = False,
    large: bool = False,
) -> Tensor:
    """x_s, for a time s < t, from x_t and the noise ``eps`` that is predicted in it.

    ``eta`` scales the standard deviation of the fresh ``noise``: 0 makes the step deterministic, 1
    the ancestral step of DDPM (Eqs. 12 and 16). ``noise`` may be None where none is needed, for
    eta = 0 or s = 0. ``clip`` bounds the predicted x_0 to [-1, 1]. ``large`` gives the noise the
    variance 1 - alpha_bar_t / alpha_bar_s, DDPM's beta_t between neighbours, and leaves the mean
    as it is (σ̂ of App. D.3).
    """
    alpha_bar = diffusion.alpha_bar
    signal_t, noise_t = diffusion.sqrt_alpha_bar[t], diffusion.sqrt_one_minus_alpha_bar[t]
    x0 = (x_t - noise_t * eps) / signal_t
    if clip:
        x0 = x0.clamp(-1, 1)
        eps = (x_t - signal_t * x0) / noise_t
    if s == 0:
        return x0
    signal_s, noise_s = diffusion.sqrt_alpha_bar[s], diffusion.sqrt_one_minus_alpha_bar[s]
    sigma = eta * noise_s / noise_t * torch.sqrt(1 - alpha_bar[t] / alpha_bar[s])
    x_s = signal_s * x0 + torch.sqrt(noise_s**2 - sigma**2) * eps
    if eta == 0:
        return x_s
    std = torch.sqrt(1 - alpha_bar[t] / alpha_bar[s]) if large else sigma
    return x_s + std * noise  # type: ignore[operator]


def heun_step(
    diffusion: Diffusion,
    x_t: Tensor,
    predict: Callable[[Tensor, int], Tensor],
    t: int,
    s: int,
    clip: bool = False,
) -> Tensor:
    """x_s from x_t on the probability-flow ODE by Heun's method, of order 2.

    ``predict(x_t, t)`` is the noise in x_t, as the network predicts it. In x_t / √alpha_bar_t over
    √(1 / alpha_bar_t - 1) the ODE is dx/dσ = eps, and a step of DDIM is Euler's method for it (Song
    et al., 2021, Sec. 4.3). The step to 0, where there is no noise to predict, stays Euler's.
    """
    eps = predict(x_t, t)
    x_s = ddim_step(diffusion, x_t, eps, t, s, clip=clip)
    if s == 0:
        return x_s
    return ddim_step(diffusion, x_t, (eps + predict(x_s, s)) / 2, t, s, clip=clip)

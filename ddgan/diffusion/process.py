"""The forward process q and its Gaussian posterior, as tables over the T steps."""

import torch
from torch import Tensor, nn

from ddgan.diffusion.schedules import geometric_betas, linear_betas, vp_betas


class Diffusion(nn.Module):
    """Forward process and posterior of DDGAN (Eqs. 7, 8 and 11).

    Tables are computed in float64 and cast once to ``dtype``. ``alpha_bar`` has T + 1 entries and
    is indexed by t, with ``alpha_bar[0] = 1``; ``betas``, ``posterior_mean_coef1`` (of x_0),
    ``posterior_mean_coef2`` (of x_t) and ``posterior_variance`` have T entries, indexed by t - 1.
    Times ``t`` are (B,) integers in {1, …, T}, or one int for the whole batch.

    ``schedule`` is ``"vp"`` (with ``beta_min``, ``beta_max`` and ``time_epsilon``, see
    ``vp_betas``), ``"linear"`` (with ``beta_min`` and ``beta_max``, see ``linear_betas``) or
    ``"geometric"`` (with ``variance_min`` and ``variance_max``).
    """

    betas: Tensor
    sqrt_betas: Tensor
    sqrt_alphas: Tensor
    alpha_bar: Tensor
    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor
    posterior_variance: Tensor
    posterior_std: Tensor

    def __init__(
        self,
        num_steps: int = 4,
        schedule: str = "vp",
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        time_epsilon: float = 0.0,
        variance_min: float = 1e-4,
        variance_max: float = 0.9999,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        if schedule == "vp":
            betas = vp_betas(num_steps, beta_min, beta_max, time_epsilon)
        elif schedule == "linear":
            betas = linear_betas(num_steps, beta_min, beta_max)
        elif schedule == "geometric":
            betas = geometric_betas(num_steps, variance_min, variance_max)
        else:
            raise ValueError(f"schedule is {schedule!r}; expected 'vp', 'linear' or 'geometric'")
        self.num_steps = num_steps
        for name, table in _tables(betas).items():
            self.register_buffer(name, table.to(dtype), persistent=False)

    def q_sample(self, x0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Draw x_t ~ q(x_t | x_0) from standard normal ``noise`` (Eq. 8); t = 0 returns x_0."""
        return (
            self._at(self.sqrt_alpha_bar, t, x0) * x0
            + self._at(self.sqrt_one_minus_alpha_bar, t, x0) * noise
        )

    def q_sample_pair(
        self, x0: Tensor, t: Tensor | int, noise: Tensor, step_noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw (x_{t-1}, x_t) ~ q(x_{t-1} | x_0) q(x_t | x_{t-1}) (Eqs. 8 and 7)."""
        x_prev = self.q_sample(x0, t - 1, noise)
        return x_prev, self.q_step(x_prev, t, step_noise)

    def q_step(self, x_prev: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Draw x_t ~ q(x_t | x_{t-1}) (Eq. 7)."""
        return (
            self._at(self.sqrt_alphas, t - 1, x_prev) * x_prev
            + self._at(self.sqrt_betas, t - 1, x_prev) * noise
        )

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """Mean of q(x_{t-1} | x_t, x_0) (Eq. 11)."""
        return (
            self._at(self.posterior_mean_coef1, t - 1, x0) * x0
            + self._at(self.posterior_mean_coef2, t - 1, x0) * x_t
        )

    def posterior_sample(self, x0: Tensor, x_t: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Draw x_{t-1} ~ q(x_{t-1} | x_t, x_0) (Eqs. 10 and 11); at t = 1 this is x_0 itself."""
        return self.add_posterior_noise(self.posterior_mean(x0, x_t, t), t, noise)

    def add_posterior_noise(self, mean: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Add noise of the posterior's variance at t, which is 0 at t = 1, to ``mean``."""
        return mean + self._at(self.posterior_std, t - 1, mean) * noise

    def predict_x0(self, x_t: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """x_0 from x_t and the noise that perturbed it (Eq. 13)."""
        noise_part = self._at(self.sqrt_one_minus_alpha_bar, t, x_t) * eps
        return (x_t - noise_part) / self._at(self.sqrt_alpha_bar, t, x_t)

    def posterior_mean_from_noise(self, x_t: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
        """Mean of the posterior from x_t and the noise in it (Eq. 12).

        Equal to Eqs. 13 and 11 in turn (App. B), without dividing by sqrt(alpha_bar_t), which is
        0.007 at the last step.
        """
        beta = self._at(self.betas, t - 1, x_t)
        scale = self._at(self.sqrt_one_minus_alpha_bar, t, x_t)
        return (x_t - beta / scale * eps) / self._at(self.sqrt_alphas, t - 1, x_t)

    def _at(self, table: Tensor, index: Tensor | int, like: Tensor) -> Tensor:
        return table[index].reshape(-1, *([1] * (like.ndim - 1)))


def _tables(betas: Tensor) -> dict[str, Tensor]:
    alphas = 1 - betas
    # log1p keeps the running product exact when a thousand factors are close to 1.
    log_alpha_bar = torch.log1p(-betas).cumsum(0)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), log_alpha_bar.exp()])
    one_minus = torch.cat([torch.zeros(1, dtype=torch.float64), -torch.expm1(log_alpha_bar)])
    variance = one_minus[:-1] / one_minus[1:] * betas
    return {
        "betas": betas,
        "sqrt_betas": betas.sqrt(),
        "sqrt_alphas": alphas.sqrt(),
        "alpha_bar": alpha_bar,
        "sqrt_alpha_bar": alpha_bar.sqrt(),
        "sqrt_one_minus_alpha_bar": one_minus.sqrt(),
        "posterior_mean_coef1": alpha_bar[:-1].sqrt() * betas / one_minus[1:],
        "posterior_mean_coef2": alphas.sqrt() * one_minus[:-1] / one_minus[1:],
        "posterior_variance": variance,
        "posterior_std": variance.sqrt(),
    }

"""A diffused mixture of Gaussians: its marginals, scores, denoising and reverse SDE, exactly."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddgan.diffusion.schedules import vp_variance


@dataclass(frozen=True)
class GaussianMixture:
    """Σ_k w_k N(m_k, v_k I) in D dimensions, in float64.

    ``weights`` (K,) add up to 1, ``means`` are (K, D) and ``variances`` (K,) are above 0.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def __post_init__(self):
        k = len(self.weights)
        if self.means.ndim != 2 or len(self.means) != k or self.variances.shape != (k,):
            raise ValueError(
                f"weights have shape {tuple(self.weights.shape)}, means {tuple(self.means.shape)} "
                f"and variances {tuple(self.variances.shape)}; expected (K,), (K, D) and (K,)"
            )
        for name in ("weights", "means", "variances"):
            object.__setattr__(self, name, getattr(self, name).double())

    def density(self, x: Tensor) -> Tensor:
        """The density (N,) at points (N, D)."""
        return self._log_joint(x).logsumexp(1).exp()

    def score(self, x: Tensor) -> Tensor:
        """The gradient of the log density at points, (N, D)."""
        share = self._log_joint(x).softmax(1) / self.variances
        return share @ self.means - share.sum(1, keepdim=True) * x

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, D) points with a generator of the CPU."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + self.variances[k, None].sqrt() * noise

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """The mean and the variance of each coordinate, (D,) each."""
        mean = self.weights @ self.means
        spread = self.variances[:, None] + (self.means - mean) ** 2
        return mean, self.weights @ spread

    def linear(self, scale: float, variance: float) -> "GaussianMixture":
        """The distribution of scale · x + √variance ε."""
        return GaussianMixture(
            self.weights, scale * self.means, scale**2 * self.variances + variance
        )

    def diffused(self, alpha_bar: float) -> "GaussianMixture":
        """q(x_t) where x_0 is this mixture, for ᾱ_t in [0, 1] (DDGAN, Eq. 8)."""
        return self.linear(math.sqrt(alpha_bar), 1 - alpha_bar)

    def denoising(self, x_t: Tensor, alpha_bar_s: float, alpha_bar_t: float) -> "GaussianMixture":
        """The true denoising distribution q(x_s | x_t) at one point x_t (D,), for s < t.

        By Bayes' rule (DDGAN, Sec. 3.1) each component of q(x_s) stays Gaussian, weighted by the
        likelihood of x_t under it. Raises ValueError unless ᾱ_t < ᾱ_s.
        """
        if not 0 < alpha_bar_t < alpha_bar_s <= 1:
            raise ValueError(
                f"alpha_bar_s is {alpha_bar_s} and alpha_bar_t {alpha_bar_t}; expected "
                "0 < alpha_bar_t < alpha_bar_s <= 1, since x_t is the noisier one"
            )
        prior = self.diffused(alpha_bar_s)
        # q(x_t | x_s) = N(c x_s, r I), by Eq. 7 over all steps from s to t.
        c, r = math.sqrt(alpha_bar_t / alpha_bar_s), 1 - alpha_bar_t / alpha_bar_s
        evidence = prior.linear(c, r)._log_joint(x_t.double()[None])[0]
        variances = 1 / (1 / prior.variances + c**2 / r)
        pull = prior.means / prior.variances[:, None] + c / r * x_t.double()
        return GaussianMixture(evidence.softmax(0), variances[:, None] * pull, variances)

    def _log_joint(self, x: Tensor) -> Tensor:
        """log(w_k N(x; m_k, v_k)), (N, K)."""
        dim = self.means.shape[1]
        squared = torch.cdist(x.double(), self.means, compute_mode="donot_use_mm_for_euclid_dist")
        normalizer = 0.5 * dim * torch.log(2 * math.pi * self.variances)
        return self.weights.log() - normalizer - squared**2 / (2 * self.variances)


def vp_alpha_bar(time: float, beta_min: float = 0.1, beta_max: float = 20.0) -> float:
    """ᾱ at a time in [0, 1] of the variance-preserving SDE: the squared share of x_0 in x."""
    return 1 - float(vp_variance(torch.tensor(time, dtype=torch.float64), beta_min, beta_max))


def reverse_sde(
    data: GaussianMixture,
    x_T: Tensor,
    num_steps: int,
    generator: torch.Generator,
    beta_min: float = 0.1,
    beta_max: float = 20.0,
) -> Tensor:
    """The states (num_steps + 1, N, D) of the reverse SDE from x_T (N, D), time 1, to time 0.

    Equal Euler-Maruyama steps with the exact score of the diffused ``data`` (Song et al., 2021,
    Eq. 6); the last one goes to the mean of x_0 instead of adding noise.
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

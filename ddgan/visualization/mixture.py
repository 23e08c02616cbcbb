"""Diffusion of a mixture of Gaussians: marginals, scores and denoising distributions, exactly."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
        """Return the density (N,) at points (N, D)."""
        return self._log_joint(x).logsumexp(1).exp()

    def score(self, x: Tensor) -> Tensor:
        """Return the gradient of the log density at points, (N, D)."""
        share = self._log_joint(x).softmax(1) / self.variances
        return share @ self.means - share.sum(1, keepdim=True) * x

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, D) points with a generator of the CPU."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + self.variances[k, None].sqrt() * noise

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the variance of each coordinate, (D,) each."""
        mean = self.weights @ self.means
        spread = self.variances[:, None] + (self.means - mean) ** 2
        return mean, self.weights @ spread

    def linear(self, scale: float, variance: float) -> "GaussianMixture":
        """Return the distribution of scale · x + √variance ε, for example q(x_t) (Eq. 8)."""
        return GaussianMixture(
            self.weights, scale * self.means, scale**2 * self.variances + variance
        )

    def diffused(self, alpha_bar: float) -> "GaussianMixture":
        """Return q(x_t) of data that this mixture is, with ᾱ_t in [0, 1] (DDGAN, Eq. 8)."""
        return self.linear(math.sqrt(alpha_bar), 1 - alpha_bar)

    def denoising(self, x_t: Tensor, alpha_bar_s: float, alpha_bar_t: float) -> "GaussianMixture":
        """Return the true denoising distribution q(x_s | x_t) at one point x_t (D,), for s < t.

        By Bayes' rule (DDGAN, Sec. 3.1) each component of q(x_s) stays Gaussian, of a weight in
        proportion to how likely x_t is under it. Raises ValueError unless ᾱ_t < ᾱ_s.
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
        """Return log(w_k N(x; m_k, v_k)), (N, K)."""
        dim = self.means.shape[1]
        squared = torch.cdist(x.double(), self.means, compute_mode="donot_use_mm_for_euclid_dist")
        normalizer = 0.5 * dim * torch.log(2 * math.pi * self.variances)
        return self.weights.log() - normalizer - squared**2 / (2 * self.variances)

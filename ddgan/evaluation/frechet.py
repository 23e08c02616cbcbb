"""The Fréchet distance between Gaussians, and the statistics of features that it compares."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean (D,), covariance (D, D) with divisor num - 1, both float64, of ``num`` features."""

    mean: Tensor
    cov: Tensor
    num: int


class StatisticsAccumulator:
    """Mean and covariance of features that arrive in parts, in float64 on the features' device.

    ``num``, ``mean`` (D,) and ``scatter`` (D, D), the sum of the outer products of the deviations
    from the mean, are updated part by part (Chan et al. 1979).
    """

    def __init__(self) -> None:
        self.num = 0
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None

    @torch.no_grad()
    def add(self, features: Tensor | np.ndarray) -> None:
        """Take in features (N, D); raises ValueError for another shape."""
        features = torch.as_tensor(features).double()
        if features.ndim != 2 or (self.num and features.shape[1] != len(self.mean)):
            expected = "(N, D)" if self.mean is None else f"(N, {len(self.mean)})"
            raise ValueError(f"features have shape {tuple(features.shape)}; expected {expected}")
        num = len(features)
        if num == 0:
            return
        mean = features.mean(dim=0)
        centred = features - mean
        scatter = centred.T @ centred
        if self.mean is None:
            self.num, self.mean, self.scatter = num, mean, scatter
            return
        total = self.num + num
        delta = mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(delta, delta) * (self.num * num / total)
        self.mean = self.mean + delta * (num / total)
        self.num = total

    def statistics(self) -> FeatureStatistics:
        """The statistics so far, on the CPU; raises ValueError for fewer than two features."""
        if self.num < 2:
            raise ValueError(f"there are {self.num} features; a covariance needs at least 2")
        return FeatureStatistics(self.mean.cpu(), (self.scatter / (self.num - 1)).cpu(), self.num)


def feature_statistics(features: Tensor | np.ndarray) -> FeatureStatistics:
    """The statistics of features (N >= 2, D)."""
    accumulator = StatisticsAccumulator()
    for part in torch.as_tensor(features).split(4096):
        accumulator.add(part)
    return accumulator.statistics()


def frechet_distance(
    mu1: Tensor | np.ndarray,
    sigma1: Tensor | np.ndarray,
    mu2: Tensor | np.ndarray,
    sigma2: Tensor | np.ndarray,
) -> float:
    """|mu1 - mu2|² + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2)), in float64.

    ``mu`` are means (D,) and ``sigma`` covariances (D, D), of full rank or not. The trace of the
    root is the sum of the roots of the eigenvalues of the product. (Heusel et al. 2017, Eq. 6.)
    Raises ValueError for shapes that do not fit together and values that are not finite.
    """
    mu1, sigma1, mu2, sigma2 = (
        torch.as_tensor(value).detach().to("cpu", torch.float64)
        for value in (mu1, sigma1, mu2, sigma2)
    )
    dim = len(mu1) if mu1.ndim == 1 else 0
    shapes = [tuple(value.shape) for value in (mu1, sigma1, mu2, sigma2)]
    if dim == 0 or shapes != [(dim,), (dim, dim)] * 2:
        raise ValueError(f"mu and sigma have shapes {shapes}; expected (D,), (D, D), (D,), (D, D)")
    if not all(value.isfinite().all() for value in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("mu or sigma have values that are not finite")
    # Products of covariances have real eigenvalues >= 0; rounding makes zeros slightly complex.
    trace_of_root = torch.linalg.eigvals(sigma1 @ sigma2).sqrt().real.sum()
    difference = mu1 - mu2
    distance = difference @ difference + sigma1.trace() + sigma2.trace() - 2 * trace_of_root
    return float(distance)

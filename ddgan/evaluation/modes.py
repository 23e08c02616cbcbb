"""Mode coverage: how many modes of the data the samples reach, and how evenly."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class ModeCoverage(NamedTuple):
    """Modes with at least one sample, KL(generated || data) in nats, number of modes."""

    modes: int
    kl: float
    num_modes: int


class GaussianModeCoverage(NamedTuple):
    """Coverage of a mixture of Gaussians by its high-quality samples, and their share in [0, 1].

    ``shares`` are the numbers of such samples in each mode, divided by those expected;
    ``modes_with_half`` and ``modes_with_fifth`` count the modes with at least so much of that.
    """

    modes: int
    kl: float
    num_modes: int
    high_quality: float
    lowest_share: float
    modes_with_half: int
    modes_with_fifth: int
    shares: list[float]


def mode_coverage(
    labels: ArrayLike, num_modes: int, reference: ArrayLike | None = None
) -> ModeCoverage:
    """Count the modes among ``labels`` and return the KL of their histogram from ``reference``.

    ``labels`` are integers in [0, num_modes), of any shape and at least one; ``reference`` holds
    num_modes probabilities (uniform if None). A label where the reference is zero makes the KL
    infinite. (DDGAN, Table 3; Metz et al. 2017, Sec. 3.3.)
    """
    labels = np.asarray(labels).ravel()
    if labels.size == 0:
        raise ValueError("labels is empty; the mode coverage needs at least one sample")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels have dtype {labels.dtype}; expected integers")
    if labels.min() < 0 or labels.max() >= num_modes:
        raise ValueError(
            f"labels span [{labels.min()}, {labels.max()}]; expected values in [0, {num_modes})"
        )
    return _coverage(np.bincount(labels, minlength=num_modes), _probabilities(reference, num_modes))


def stacked_distribution(digits: np.ndarray) -> np.ndarray:
    """The probabilities (1000,) of triples of independent draws from ``digits`` (N,) in 0..9."""
    p = np.bincount(digits, minlength=10) / len(digits)
    return np.einsum("i,j,k->ijk", p, p, p).ravel()


def finite_sample_floor(num_samples: int, num_modes: int) -> float:
    """The KL in nats expected of ``num_samples`` perfect samples: (K - 1) / (2 N).

    The leading term of the bias of a histogram's KL; it holds for several samples per mode.
    """
    if num_samples < 1 or num_modes < 1:
        raise ValueError(
            f"num_samples={num_samples}, num_modes={num_modes}; expected both to be at least 1"
        )
    return (num_modes - 1) / (2 * num_samples)


def gaussian_mode_coverage(
    points: ArrayLike,
    centres: ArrayLike,
    std: float,
    reference: ArrayLike | None = None,
    num_stds: float = 4.0,
) -> GaussianModeCoverage:
    """The mode coverage of a mixture of isotropic Gaussians (25-Gaussians, DDGAN C.5).

    ``points`` is (N, d) and ``centres`` (K, d); ``std`` is the deviation of each Gaussian in the
    same units. A sample is of high quality within ``num_stds`` deviations of its nearest centre;
    only such samples count for the modes and for the KL from ``reference`` (K probabilities,
    uniform if None), which is infinite where there are none. A point that is not finite is not
    of high quality.
    """
    points = np.asarray(points, dtype=np.float64)
    centres = np.asarray(centres, dtype=np.float64)
    if points.ndim != 2 or centres.ndim != 2 or points.shape[1] != centres.shape[1]:
        raise ValueError(
            f"points {points.shape} and centres {centres.shape}; expected (N, d) and (K, d)"
        )
    if len(points) == 0 or std <= 0:
        raise ValueError(f"{len(points)} points, std={std}; expected at least one and std > 0")
    num_modes = len(centres)
    reference = _probabilities(reference, num_modes)
    distances = np.linalg.norm(points[:, None] - centres, axis=-1)
    nearest = distances.argmin(axis=1)
    good = distances.min(axis=1) <= num_stds * std  # False for NaN
    counts = np.bincount(nearest[good], minlength=num_modes)
    coverage = ModeCoverage(0, float("inf"), num_modes)
    if good.any():
        coverage = _coverage(counts, reference)
    # Of a mode that is not expected at all, any share is enough.
    expected = max(1, good.sum()) * reference
    shares = np.divide(counts, expected, out=np.ones(num_modes), where=expected > 0)
    return GaussianModeCoverage(
        *coverage,
        high_quality=float(good.mean()),
        lowest_share=float(shares.min()),
        modes_with_half=int((shares >= 0.5).sum()),
        modes_with_fifth=int((shares >= 0.2).sum()),
        shares=shares.tolist(),
    )


def _probabilities(reference: ArrayLike | None, num_modes: int) -> np.ndarray:
    if reference is None:
        return np.full(num_modes, 1 / num_modes)
    q = np.asarray(reference, dtype=np.float64)
    if q.shape != (num_modes,) or not (q >= 0).all() or abs(q.sum() - 1) > 1e-6:
        raise ValueError(
            f"reference has shape {q.shape} and sum {q.sum():.6g}; expected "
            f"{num_modes} non-negative probabilities with sum 1"
        )
    return q


def _coverage(counts: np.ndarray, reference: np.ndarray) -> ModeCoverage:
    reached = counts > 0
    p = counts[reached] / counts.sum()
    with np.errstate(divide="ignore"):
        kl = float((p * (np.log(p) - np.log(reference[reached]))).sum())
    return ModeCoverage(int(reached.sum()), kl, len(counts))

"""Nearest neighbours in a feature space, and the metrics that are built on them.

A set of samples stands for the union of the closed balls around its members; a ball's radius is the
distance from its centre to the k-th nearest other member. Distances are estimated in float32, block
by block, with a bound on the error; what an estimate cannot decide is computed in float64. Results
are those of float64, and memory does not grow with the product of the numbers of samples.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Rows of a block; GPUs need larger products.
_BLOCK = {"cpu": 2048, "cuda": 8192}
# Numbers in an array of differences in float64: 2 MB stay in a processor's cache.
_CHUNK = 2**18
# Candidates beyond the k-th neighbour, in case the order of the estimates is wrong.
_SPARE = 4


class Neighbours(NamedTuple):
    """Euclidean distances (N, k), float64 and ascending, and indices (N, k) of the neighbours."""

    distances: Tensor
    indices: Tensor


class _Block(NamedTuple):
    rows: slice
    vectors: Tensor
    squared_lengths: Tensor


@torch.no_grad()
def nearest_neighbours(
    queries: Tensor | np.ndarray, references: Tensor | np.ndarray, k: int = 5
) -> Neighbours:
    """Find the ``k`` nearest ``references`` (M, D) of each of the ``queries`` (N, D).

    Distances are sums of squared differences, so a copy is at distance 0. Runs on the device of the
    queries and needs N x M distances at once. Raises ValueError for features that do not fit
    together or are not finite, and for fewer than k references.
    """
    queries = _checked("queries", queries)
    references = _checked("references", references).to(queries.device)
    if references.shape[1] != queries.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} features and references {references.shape[1]}; "
            "expected features of one extractor"
        )
    if not 1 <= k <= len(references):
        raise ValueError(f"k is {k}; expected 1 to {len(references)}, the number of references")
    distances = [
        torch.cdist(queries.double(), part.double(), compute_mode="donot_use_mm_for_euclid_dist")
        for part in references.split(_block_size(queries))
    ]
    return Neighbours(*torch.cat(distances, dim=1).topk(k, largest=False))


@torch.no_grad()
def precision_recall_density_coverage(
    real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 5
) -> dict[str, float]:
    """Compare features ``fake`` (M, D) of samples with features ``real`` (N, D).

    Precision is the share of samples inside at least one real ball, recall the share of real
    images inside a fake ball (Kynkäänniemi et al. 2019, Eq. 1 and 2). Density is the mean number
    of real balls around a sample divided by k, coverage the share of real balls with a sample
    inside (Naeem et al. 2020, Eq. 2 and 3).

    A point on the surface of a ball, up to float64 rounding, is inside, as in torch-fidelity; the
    package prdc leaves it outside, which differs for copies of real images. Runs on the device of
    ``real``. Raises ValueError for features that do not fit together or are not finite, and for at
    most k of either.
    """
    real = _checked("real features", real)
    fake = _checked("fake features", fake).to(real.device)
    if real.shape[1] != fake.shape[1] or not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"features are {tuple(real.shape)} (real) and {tuple(fake.shape)} (fake) and k is {k}; "
            "expected one number of features, and more than k >= 1 samples of each"
        )
    with _full_precision():
        return _compare(real, fake, k)


def _compare(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    # Differences from a common centre keep the terms, and so the rounding errors, small.
    centre = real.mean(dim=0, dtype=torch.float64)
    real_limit, fake_limit = (_squared_radii(x, centre, k) for x in (real, fake))
    precise = torch.zeros(len(fake), dtype=torch.bool, device=real.device)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(recalled)
    hits = 0
    for x in _blocks(real, centre):
        for y in _blocks(fake, centre):
            squared = _squared_distances(x, y)
            error = _bound(x) * (x.squared_lengths.max() + y.squared_lengths.max())
            pair = real[x.rows], fake[y.rows]
            in_real_ball = _inside(squared, error, real_limit[x.rows], *pair)
            precise[y.rows] |= in_real_ball.any(dim=0)
            covered[x.rows] |= in_real_ball.any(dim=1)
            hits += in_real_ball.sum().item()
            in_fake_ball = _inside(squared.T, error, fake_limit[y.rows], *pair[::-1])
            recalled[x.rows] |= in_fake_ball.any(dim=0)
    return {
        "precision": precise.double().mean().item(),
        "recall": recalled.double().mean().item(),
        "density": hits / (k * len(fake)),
        "coverage": covered.double().mean().item(),
    }


def _inside(
    squared: Tensor, error: Tensor, limits: Tensor, centres: Tensor, samples: Tensor
) -> Tensor:
    """Which samples are in which balls (balls, samples), given estimates of squared distances."""
    inside = squared <= (limits - error).float()[:, None]
    doubtful = (squared <= (limits + error).float()[:, None]).logical_xor_(inside).nonzero()
    for pairs in doubtful.split(max(1, _CHUNK // centres.shape[1])):
        ball, sample = pairs.unbind(dim=1)
        inside[ball, sample] = _exact(centres[ball], samples[sample]) <= limits[ball]
    return inside


def _squared_radii(features: Tensor, centre: Tensor, k: int) -> Tensor:
    """The squared distance (N,) to the k-th nearest other row, float64, rounded up."""
    count = min(k + _SPARE, len(features) - 1)
    estimates = features.new_full((len(features), count), torch.inf, dtype=torch.float32)
    indices = torch.zeros_like(estimates, dtype=torch.int64)

    def update(rows: slice, columns: slice, squared: Tensor) -> None:
        own = squared.topk(min(count, squared.shape[1]), largest=False, sorted=False)
        values = torch.cat([estimates[rows], own.values], dim=1)
        known = torch.cat([indices[rows], own.indices + columns.start], dim=1)
        estimates[rows], order = values.topk(count, largest=False)
        indices[rows] = known.gather(1, order)

    lengths = []
    for x in _blocks(features, centre):
        lengths.append(x.squared_lengths.double())
        # The matrix is symmetric: its upper half serves both.
        for y in _blocks(features, centre, first=x.rows.start):
            squared = _squared_distances(x, y)
            if x.rows == y.rows:
                squared.fill_diagonal_(torch.inf)
            else:
                update(y.rows, x.rows, squared.T)
            update(x.rows, y.rows, squared)
    chunks = torch.arange(len(features), device=features.device).split(
        max(1, _CHUNK // (count * features.shape[1]))
    )
    exact = [_exact(features[rows, None], features[indices[rows]]) for rows in chunks]
    radii = torch.cat(exact).kthvalue(k).values
    reach = torch.cat(lengths) + torch.cat(lengths).max()
    if count < len(features) - 1:
        # Something nearer than the k-th candidate may not be among the candidates.
        doubtful = estimates[:, -1] - _bound(x) * reach <= radii
        for rows in doubtful.nonzero().flatten().split(_block_size(features)):
            radii[rows] = _radii_in_float64(features, centre, rows, k)
    return radii + (features.shape[1] + 16) * torch.finfo(torch.float64).eps * reach


def _radii_in_float64(features: Tensor, centre: Tensor, rows: Tensor, k: int) -> Tensor:
    """The squared radii of rows with more near-copies than float32 can tell apart."""
    x = _block(slice(0, len(rows)), features[rows], centre, torch.float64)
    nearest = torch.empty(len(rows), 0, dtype=torch.float64, device=features.device)
    for y in _blocks(features, centre, dtype=torch.float64):
        both = torch.cat([nearest, _squared_distances(x, y)], dim=1)
        # One more than k, since each row meets itself.
        nearest = both.topk(min(k + 1, both.shape[1]), largest=False).values
    return nearest[:, k].clamp(min=0)


def _blocks(
    features: Tensor, centre: Tensor, first: int = 0, dtype: torch.dtype = torch.float32
) -> Iterator[_Block]:
    for start in range(first, len(features), _block_size(features)):
        rows = slice(start, min(start + _block_size(features), len(features)))
        yield _block(rows, features[rows], centre, dtype)


def _block(rows: slice, features: Tensor, centre: Tensor, dtype: torch.dtype) -> _Block:
    vectors = (features.double() - centre).to(dtype)
    return _Block(rows, vectors, vectors.square().sum(dim=1))


def _block_size(features: Tensor) -> int:
    return _BLOCK.get(features.device.type, 2048)


def _squared_distances(x: _Block, y: _Block) -> Tensor:
    products = torch.addmm(y.squared_lengths, x.vectors, y.vectors.T, alpha=-2)
    return products.add_(x.squared_lengths[:, None])


def _bound(x: _Block) -> float:
    """The error of a squared distance, relative to the sum of the two squared lengths.

    |fl(x·y) - x·y| <= D u |x| |y| with the unit roundoff u = eps / 2; 16 for all other roundings.
    """
    return (x.vectors.shape[1] + 16) * torch.finfo(x.vectors.dtype).eps / 2


def _exact(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() - y).square_().sum(dim=-1)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Switch off matrix products of reduced precision, for which the bound does not hold."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _checked(what: str, features: Tensor | np.ndarray) -> Tensor:
    features = torch.as_tensor(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{what} have shape {tuple(features.shape)}; expected (N >= 1, D >= 1)")
    # A sum is not finite if an entry is not, and needs no array of the size of the features.
    if not features.sum(dtype=torch.float64).isfinite():
        raise ValueError(f"{what} have values that are not finite")
    return features

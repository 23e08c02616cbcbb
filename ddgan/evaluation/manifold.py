"""Nearest neighbours in a feature space, and the metrics that are built on them.

A set of samples stands for the union of the closed balls around its members; a ball's radius is the
distance from its centre to the k-th nearest other member. Distances are computed in float64, block
by block, so memory does not grow with the product of the numbers of samples.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Rows of a block; GPUs need larger products.
_BLOCK = {"cpu": 2048, "cuda": 8192}


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
            in_real_ball = squared <= real_limit[x.rows, None]
            precise[y.rows] |= in_real_ball.any(dim=0)
            covered[x.rows] |= in_real_ball.any(dim=1)
            hits += in_real_ball.sum().item()
            recalled[x.rows] |= (squared <= fake_limit[y.rows]).any(dim=1)
    return {
        "precision": precise.double().mean().item(),
        "recall": recalled.double().mean().item(),
        "density": hits / (k * len(fake)),
        "coverage": covered.double().mean().item(),
    }


def _squared_radii(features: Tensor, centre: Tensor, k: int) -> Tensor:
    """The squared distance (N,) to the k-th nearest other row, and what rounding may add to it."""
    nearest = features.new_full((len(features), k), torch.inf, dtype=torch.float64)
    lengths = []

    def update(rows: slice, squared: Tensor) -> None:
        own = squared.topk(min(k, squared.shape[1]), largest=False, sorted=False).values
        nearest[rows] = torch.cat([nearest[rows], own], dim=1).topk(k, largest=False).values

    for x in _blocks(features, centre):
        lengths.append(x.squared_lengths)
        # The matrix is symmetric: its upper half serves both.
        for y in _blocks(features, centre, first=x.rows.start):
            squared = _squared_distances(x, y)
            if x.rows == y.rows:
                squared.fill_diagonal_(torch.inf)
            else:
                update(y.rows, squared.T)
            update(x.rows, squared)
    lengths = torch.cat(lengths)
    # Two roundings of the same distance: |fl(x·y) - x·y| <= D eps / 2 |x| |y|, 16 for the rest.
    error = (features.shape[1] + 16) * torch.finfo(torch.float64).eps * (lengths + lengths.max())
    return nearest[:, -1].clamp(min=0) + error


def _blocks(features: Tensor, centre: Tensor, first: int = 0) -> Iterator[_Block]:
    for start in range(first, len(features), _block_size(features)):
        rows = slice(start, min(start + _block_size(features), len(features)))
        vectors = features[rows].double() - centre
        yield _Block(rows, vectors, vectors.square().sum(dim=1))


def _block_size(features: Tensor) -> int:
    return _BLOCK.get(features.device.type, 2048)


def _squared_distances(x: _Block, y: _Block) -> Tensor:
    products = torch.addmm(y.squared_lengths, x.vectors, y.vectors.T, alpha=-2)
    return products.add_(x.squared_lengths[:, None])


def _checked(what: str, features: Tensor | np.ndarray) -> Tensor:
    features = torch.as_tensor(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{what} have shape {tuple(features.shape)}; expected (N >= 1, D >= 1)")
    # A sum is not finite if an entry is not, and needs no array of the size of the features.
    if not features.sum(dtype=torch.float64).isfinite():
        raise ValueError(f"{what} have values that are not finite")
    return features

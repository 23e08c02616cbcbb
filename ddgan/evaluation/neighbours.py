"""Exact nearest neighbours in a feature space, tile by tile.

Squared distances are estimated in float32 with a bound on their error; what the estimate cannot
decide is computed in float64 from the differences. The results are those of float64 throughout,
in a third of the time, and no array has more than a few million entries besides the features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Entries of an array of vectors in float64: 2 MB stay in a processor's cache.
_MAX_ENTRIES = 2**18
# More candidates than neighbours, so that those whose estimates are swapped are among them.
_SPARE = 4


class Neighbours(NamedTuple):
    """Euclidean distances (N, k), float64 and ascending, and indices (N, k) of the neighbours."""

    distances: Tensor
    indices: Tensor


@torch.no_grad()
def nearest_neighbours(
    queries: Tensor | np.ndarray, references: Tensor | np.ndarray | None = None, k: int = 5
) -> Neighbours:
    """Return the ``k`` nearest ``references`` (M, D) of each of the ``queries`` (N, D).

    Without references the neighbours are sought among the queries themselves, leaving each one
    out of its own. It runs on the device of the queries. Raises ValueError for shapes that do not
    fit, values that are not finite, or fewer than k references.
    """
    queries = check_features("queries", queries)
    own = references is None
    others = queries if own else check_features("references", references).to(queries.device)
    if others.shape[1] != queries.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} features and references {others.shape[1]}; expected "
            "those of one extractor"
        )
    available = len(others) - own
    if not 1 <= k <= available:
        raise ValueError(f"k is {k}; expected 1 to {available}, the number of references to choose")
    squared, indices = search(queries, others, k, own)
    return Neighbours(squared.sqrt(), indices)


def check_features(what: str, features: Tensor | np.ndarray) -> Tensor:
    """Return features as a floating-point tensor (N, D); raises ValueError for anything else."""
    features = torch.as_tensor(features)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{what} have shape {tuple(features.shape)}; expected (N >= 1, D >= 1)")
    if features.dtype not in (torch.float32, torch.float64):
        features = features.float()
    # A sum is not finite if an entry is not, and needs no array of the size of the features.
    if not features.sum(dtype=torch.float64).isfinite():
        raise ValueError(f"{what} have values that are not finite")
    return features


class Tiles:
    """Estimates of the squared distances between two sets of vectors (N, D) and (M, D).

    An estimate differs from the true value by at most ``bound`` times the sum of the squared
    lengths of the two vectors, measured from the mean of the second set.
    """

    def __init__(self, x: Tensor, y: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.x, self.y, self.dtype = x, y, dtype
        self.size = 2048 if x.device.type == "cpu" else 8192
        # Differences from a common centre keep the terms, and so the rounding errors, small.
        self.centre = y.mean(dim=0)
        # |fl(x·y) - x·y| <= D u |x| |y|, with unit roundoff u = eps / 2; 16 for other roundings.
        self.bound = (x.shape[1] + 16) * torch.finfo(dtype).eps / 2

    def vectors(self, features: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Return the block of ``features`` from ``start``, centred, and its squared lengths."""
        block = (features[start : start + self.size] - self.centre).to(self.dtype)
        return block, block.square().sum(dim=1)

    def estimates(self, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
        """Return the matrix of estimates between two blocks."""
        tile = torch.addmm(y[1], x[0], y[0].T, alpha=-2)
        return tile.add_(x[1][:, None])

    def rows(self) -> range:
        """The first indices of the blocks of x."""
        return range(0, len(self.x), self.size)

    def columns(self) -> range:
        """The first indices of the blocks of y."""
        return range(0, len(self.y), self.size)


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch reduced-precision matrix products off, for which no bound here would hold."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared distances of pairs of rows, in float64 from their differences."""
    return (y - x.double()).square_().sum(dim=-1)


def blocks_of_rows(count: int, entries_per_row: int) -> Iterator[slice]:
    """Divide ``count`` rows so that a block has a bounded number of entries."""
    step = max(1, _MAX_ENTRIES // entries_per_row)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


class _Smallest:
    """The smallest entries of each row of a matrix that is seen tile by tile."""

    def __init__(self, rows: int, count: int, like: Tensor, dtype: torch.dtype) -> None:
        self.count = count
        self.values = like.new_full((rows, count), torch.inf, dtype=dtype)
        self.indices = like.new_full((rows, count), -1, dtype=torch.int64)

    def update(self, first_row: int, first_column: int, tile: Tensor) -> None:
        rows = slice(first_row, first_row + len(tile))
        values, columns = tile.topk(min(self.count, tile.shape[1]), largest=False, sorted=False)
        values = torch.cat([self.values[rows], values], dim=1)
        indices = torch.cat([self.indices[rows], columns + first_column], dim=1)
        self.values[rows], order = values.topk(self.count, largest=False)
        self.indices[rows] = indices.gather(1, order)


def search(queries: Tensor, others: Tensor, k: int, own: bool) -> tuple[Tensor, Tensor]:
    """Return the squared distances (N, k), float64, and the indices of the nearest of ``others``.

    With ``own`` the others are the queries, and none is its own neighbour. Nothing is checked.
    """
    tiles = Tiles(queries, others)
    with full_precision():
        found = _candidates(tiles, min(k + _SPARE, len(others) - own), own)
    squared, indices = _ranked(queries, others, found.indices, k)
    if found.count < len(others) - own:
        doubtful = _doubtful_rows(tiles, found.values[:, -1], squared[:, -1])
        for rows in doubtful.split(tiles.size):
            squared[rows], indices[rows] = _search_in_float64(queries, others, rows, k, own)
    return squared, indices


def _candidates(tiles: Tiles, count: int, own: bool) -> _Smallest:
    found = _Smallest(len(tiles.x), count, tiles.x, tiles.dtype)
    for i in tiles.rows():
        x = tiles.vectors(tiles.x, i)
        for j in tiles.columns():
            if own and j < i:
                continue  # the matrix is symmetric: its upper half serves the lower one
            tile = tiles.estimates(x, tiles.vectors(tiles.y, j))
            if own and i == j:
                tile.fill_diagonal_(torch.inf)
            found.update(i, j, tile)
            if own and i != j:
                found.update(j, i, tile.T)
    return found


def _ranked(x: Tensor, y: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the exact squared distances and the indices of the k nearest of the candidates."""
    squared = torch.empty(len(x), k, dtype=torch.float64, device=x.device)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for rows in blocks_of_rows(len(x), candidates.shape[1] * x.shape[1]):
        exact = squared_distances(x[rows, None], y[candidates[rows]])
        squared[rows], order = exact.topk(k, largest=False)
        indices[rows] = candidates[rows].gather(1, order)
    return squared, indices


def _doubtful_rows(tiles: Tiles, last_candidate: Tensor, kth: Tensor) -> Tensor:
    """Return the rows in which something nearer than the k-th may not be among the candidates."""
    lengths = _squared_lengths(tiles, tiles.x)
    error = tiles.bound * (lengths + _squared_lengths(tiles, tiles.y).max())
    return (last_candidate.double() - error <= kth).nonzero().flatten()


def _squared_lengths(tiles: Tiles, features: Tensor) -> Tensor:
    starts = range(0, len(features), tiles.size)
    return torch.cat([tiles.vectors(features, start)[1].double() for start in starts])


def _search_in_float64(
    queries: Tensor, others: Tensor, rows: Tensor, k: int, own: bool
) -> tuple[Tensor, Tensor]:
    """Search for rows whose neighbours are too much alike for float32, near-copies for instance."""
    tiles = Tiles(queries[rows], others, torch.float64)
    found = _Smallest(len(rows), min(k + _SPARE, len(others) - own), queries, torch.float64)
    x = tiles.vectors(tiles.x, 0)
    for j in tiles.columns():
        tile = tiles.estimates(x, tiles.vectors(others, j))
        if own:
            inside = ((rows >= j) & (rows < j + tile.shape[1])).nonzero().flatten()
            tile[inside, rows[inside] - j] = torch.inf
        found.update(0, j, tile)
    return _ranked(tiles.x, others, found.indices, k)

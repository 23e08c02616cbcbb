"""Improved precision and recall, density and coverage: real and generated samples as balls.

A set of samples stands for the union of the balls around its members whose radius is the distance
to the k-th nearest other member.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddgan.evaluation.neighbours import (
    Tiles,
    blocks_of_rows,
    check_features,
    full_precision,
    search,
    squared_distances,
)


class _Balls(NamedTuple):
    """Centres (N, D) and squared radii (N,), float64."""

    centres: Tensor
    squared_radii: Tensor


@torch.no_grad()
def precision_recall_density_coverage(
    real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 5
) -> dict[str, float]:
    """Return precision, recall, density and coverage of features ``fake`` (M, D), ``real`` (N, D).

    Precision is the share of fake samples inside at least one real ball; recall that of real
    samples inside a fake ball (Kynkäänniemi et al. 2019, Eq. 1 and 2). Density is the mean number
    of real balls that a fake sample is in, divided by k; coverage the share of real balls with a
    fake sample in them (Naeem et al. 2020, Eq. 2 and 3).

    A ball is open: a sample on its surface is outside, as in Naeem et al.; a copy of the k-th
    neighbour therefore does not count. Distances are compared as in float64. The working memory
    beside the features does not depend on N and M but for a few vectors of that length. It runs on
    the device of ``real``. Raises ValueError for features that do not fit together or at most k
    samples.
    """
    real = check_features("real features", real)
    fake = check_features("fake features", fake).to(real.device)
    if real.shape[1] != fake.shape[1] or not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"features are {tuple(real.shape)} (real) and {tuple(fake.shape)} (fake) and k is {k}; "
            "expected one number of features, and more than k >= 1 samples of each"
        )
    real_balls = _Balls(real, search(real, real, k, own=True)[0][:, -1])
    fake_balls = _Balls(fake, search(fake, fake, k, own=True)[0][:, -1])
    precise = torch.zeros(len(fake), dtype=torch.bool, device=real.device)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(recalled)
    hits = 0
    with full_precision():
        tiles = Tiles(real, fake)
        for i in tiles.rows():
            x = tiles.vectors(real, i)
            for j in tiles.columns():
                y = tiles.vectors(fake, j)
                tile = tiles.estimates(x, y)
                error = (tiles.bound * x[1], tiles.bound * y[1])
                ball, sample = _inside(tile, error, _part(real_balls, i, tiles), fake[j:])
                covered[i + ball] = True
                precise[j + sample] = True
                hits += len(ball)
                _, sample = _inside(tile.T, error[::-1], _part(fake_balls, j, tiles), real[i:])
                recalled[i + sample] = True
    return {
        "precision": precise.double().mean().item(),
        "recall": recalled.double().mean().item(),
        "density": hits / (k * len(fake)),
        "coverage": covered.double().mean().item(),
    }


def _part(balls: _Balls, start: int, tiles: Tiles) -> _Balls:
    return _Balls(*(part[start : start + tiles.size] for part in balls))


def _inside(
    tile: Tensor, error: tuple[Tensor, Tensor], balls: _Balls, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the pairs (ball, sample) in which the sample is inside the ball.

    ``tile`` (balls, samples) holds estimates of the squared distances, and the sum of the two
    ``error`` vectors bounds their errors.
    """
    limit = (balls.squared_radii + error[0]).to(tile.dtype)
    ball, sample = (tile <= limit[:, None] + error[1]).nonzero(as_tuple=True)
    slack = tile[ball, sample] - balls.squared_radii[ball]
    keep = slack < -(error[0][ball] + error[1][sample])
    doubtful = (~keep).nonzero().flatten()
    for rows in blocks_of_rows(len(doubtful), samples.shape[1]):
        pairs = doubtful[rows]
        exact = squared_distances(balls.centres[ball[pairs]], samples[sample[pairs]])
        keep[pairs] = exact < balls.squared_radii[ball[pairs]]
    return ball[keep], sample[keep]

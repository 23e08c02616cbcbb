"""Stacked digits, taken apart so that a person can read them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor


def plot_digits(samples: Tensor, labels: Sequence[int], path: str | Path, columns: int = 6) -> None:
    """Draw (N, 3, H, W) uint8 samples, each beside its three channels, with the labels read.

    ``labels`` are 100 a + 10 b + c for the digits a, b, c that a classifier sees in the channels.
    """
    from matplotlib.figure import Figure

    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(2.6 * columns, 0.95 * rows), dpi=80, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.axis("off")
    pictures = samples.cpu().permute(0, 2, 3, 1).numpy()
    for axes, picture, label in zip(grid, pictures, labels, strict=False):
        channels = [np.repeat(picture[..., i : i + 1], 3, -1) for i in range(3)]
        gap = np.full((picture.shape[0], 1, 3), 255, np.uint8)
        parts = [picture, *(part for channel in channels for part in (gap, channel))]
        axes.imshow(np.concatenate(parts, axis=1), interpolation="nearest")
        axes.set_title(f"{label:03d}", fontsize=9, pad=2)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")

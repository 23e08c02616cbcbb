"""Stacked digits next to their three channels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ddgan.visualization.figure import new_figure, save_figure


def plot_digits(
    panels: dict[str, tuple[Tensor, Sequence[int]]], path: str | Path, columns: int = 5
) -> None:
    """Draw stacked digits, each next to its three channels, under the label that was read.

    ``panels`` maps a title to (N, 3, H, W) uint8 samples and their N labels 100 a + 10 b + c, for
    the digits a, b, c in the channels.
    """
    rows = [-(-len(labels) // columns) for _, labels in panels.values()]
    figure = new_figure(2.9 * columns, 1.05 * sum(rows), dpi=80)
    parts = figure.subfigures(len(panels), squeeze=False, height_ratios=rows)[:, 0]
    for part, (title, (samples, labels)), height in zip(parts, panels.items(), rows, strict=True):
        part.suptitle(title, fontsize=12)
        grid = list(part.subplots(height, columns, squeeze=False).flat)
        for axes in grid:
            axes.axis("off")
        images = samples.cpu().permute(0, 2, 3, 1).numpy()
        for axes, image, label in zip(grid, images, labels, strict=False):
            axes.imshow(_taken_apart(image), interpolation="nearest")
            axes.set_title(f"{label:03d}", fontsize=9, pad=2)
    save_figure(figure, path)


def _taken_apart(image: np.ndarray) -> np.ndarray:
    """An (H, W, 3) image and its three channels in grey, side by side."""
    gap = np.full((image.shape[0], 1, 3), 255, np.uint8)
    channels = [np.repeat(image[..., i : i + 1], 3, -1) for i in range(3)]
    parts = [image, *(part for channel in channels for part in (gap, channel))]
    return np.concatenate(parts, axis=1)

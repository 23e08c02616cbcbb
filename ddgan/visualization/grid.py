"""Grids of images and scatter plots of points."""

import gc
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ddgan.utils.files import write_atomically
from ddgan.visualization.figure import new_figure

MIN_TILE = 32


def image_grid(images: Tensor, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """(N, C, H, W) uint8 images, C 1 or 3, as one (height, width, 3) uint8 image.

    Images below 32 pixels are enlarged by a whole factor, pixel by pixel. The grid is about square
    unless ``columns`` is given.
    """
    n, channels, height, width = images.shape
    if channels not in (1, 3) or n == 0:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (N >= 1, 1 or 3, H, W)"
        )
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    zoom = max(1, MIN_TILE // max(height, width))
    tiles = images.cpu().permute(0, 2, 3, 1).numpy().repeat(zoom, 1).repeat(zoom, 2)
    height, width = height * zoom, width * zoom
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        y, x = index // columns * (height + gap), index % columns * (width + gap)
        grid[y : y + height, x : x + width] = tile
    return grid


def scatter(points: Tensor) -> np.ndarray:
    """A plot of (N, D >= 2) points, the first two coordinates, as a uint8 image."""
    figure = new_figure(5, 5)
    axes = figure.add_subplot()
    x, y = points[:, 0].cpu().numpy(), points[:, 1].cpu().numpy()
    axes.scatter(x, y, s=3, alpha=0.5, linewidths=0)
    axes.set_aspect("equal", "datalim")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    # A figure is full of reference cycles: without this, the memory of a long run would grow.
    del axes, figure
    gc.collect()
    return np.asarray(Image.open(buffer).convert("RGB"))


def save_samples(samples: Tensor, path: str | Path) -> np.ndarray:
    """Write samples as one PNG, a grid of images or a plot of points, and return the image."""
    image = image_grid(samples) if samples.ndim == 4 else scatter(samples)
    save_image(image, path)
    return image


def save_rows(images: Tensor, path: str | Path) -> None:
    """Write (rows, columns, C, H, W) uint8 images as one PNG."""
    save_image(image_grid(images.flatten(0, 1), columns=images.shape[1]), path)


def save_image(image: np.ndarray, path: str | Path) -> None:
    """Write an (H, W, 3) uint8 image as a PNG."""
    write_atomically(path, lambda file: Image.fromarray(image).save(file, format="PNG"))

"""The reverse SDE's path from noise to data against the straight one: SPI-GAN, Fig. 4, exactly."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddgan.data import StackedDigits
from ddgan.diffusion import StraightPath
from ddgan.visualization.figure import new_figure, save_figure
from ddgan.visualization.mixture import GaussianMixture, reverse_sde, vp_alpha_bar

LINE = GaussianMixture(
    torch.tensor([0.35, 0.2, 0.45]),
    torch.tensor([[-1.3], [0.1], [1.1]]),
    torch.tensor([0.01, 0.01, 0.01]),
)
_ANGLES = torch.arange(5) * (2 * torch.pi / 5) + torch.pi / 2
PLANE = GaussianMixture(
    torch.full((5,), 0.2),
    1.4 * torch.stack([_ANGLES.cos(), _ANGLES.sin()], dim=1),
    torch.full((5,), 0.01),
)
COLUMNS = ("reverse SDE", "straight path")
NUM_STEPS = 500
# More paths are a tangle in the plane.
IN_PLANE = 3
# Shares of the path at which images are shown.
SHARES = torch.linspace(0, 1, 9).tolist()


def both_paths(
    data: GaussianMixture, num: int, seed: int, num_steps: int = NUM_STEPS
) -> tuple[Tensor, Tensor]:
    """``num`` paths from noise to data, (num_steps + 1, num, D) each, in float64.

    The first are of the reverse SDE with the exact score of ``data``, from x_T ~ N(0, I); the
    second lead straight from the same x_T to the same x_0 (SPI-GAN, Eq. 7).
    """
    generator = torch.Generator().manual_seed(seed)
    x_T = torch.randn(num, data.means.shape[1], generator=generator, dtype=torch.float64)
    winding = reverse_sde(data, x_T, num_steps, generator)
    times = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    straight = [StraightPath().interpolate(winding[-1], x_T, float(t)) for t in times]
    return winding, torch.stack(straight)


def path_lengths_of(paths: Tensor) -> Tensor:
    """Lengths (N,) of paths (S, N, D), summed over their S - 1 pieces."""
    return paths.diff(dim=0).norm(dim=-1).sum(0)


def plot_paths(path: str | Path, num: int = 8, seed: int = 0) -> None:
    """Draw both paths in one dimension over time, in the plane, and as images, as a PNG.

    Grey shows the exact density. The digits' rows follow one x_T to one x_0 of 500 digits.
    """
    figure = new_figure(11, 12.2)
    figure.get_layout_engine().set(h_pad=0.08)
    above, middle, below = figure.subfigures(3, 1, height_ratios=[3.4, 5.1, 3.0])
    _draw_line(above, num, seed)
    _draw_plane(middle, num, seed)
    _draw_digits(below, seed)
    save_figure(figure, path)


def _draw_line(figure, num: int, seed: int) -> None:
    share = np.linspace(0, 1, 161)
    x = torch.linspace(-2.8, 2.8, 401, dtype=torch.float64)
    # The SDE's time runs from 1 to 0; i(t) mixes x_0 and an x_T almost independent of it.
    marginals = (
        [LINE.diffused(vp_alpha_bar(1 - s)) for s in share],
        [LINE.linear(s, (1 - s) ** 2) for s in share],
    )
    paths = both_paths(LINE, num, seed)
    row = figure.subplots(1, 2, sharey=True)
    for axes, title, mixtures, lines in zip(row, COLUMNS, marginals, paths, strict=True):
        density = torch.stack([mixture.density(x[:, None]) for mixture in mixtures], dim=1)
        # Narrow modes are many times as dense as noise: columns are scaled to their own maximum.
        axes.pcolormesh(
            share, x, density / density.amax(0), cmap="Greys", vmax=1.6, rasterized=True
        )
        way = np.linspace(0, 1, len(lines))
        for i in range(num):
            axes.plot(way, lines[:, i, 0], color=f"C{i}", linewidth=1.1)
        axes.set_title(f"{title}, one dimension over time")
        axes.set_xlabel("share of the path from noise (0) to data (1)")
    row[0].set_ylabel("x")


def _draw_plane(figure, num: int, seed: int) -> None:
    grid = torch.linspace(-2.6, 2.6, 241, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    density = PLANE.density(points).reshape(241, 241).T
    num = min(num, IN_PLANE)
    winding, straight = both_paths(PLANE, num, seed)
    row = figure.subplots(1, 2, sharey=True)
    for axes, title, lines in zip(row, COLUMNS, (winding, straight), strict=True):
        axes.pcolormesh(grid, grid, density.sqrt(), cmap="Greys", vmax=2.6, rasterized=True)
        for i in range(num):
            axes.plot(*lines[:, i].T, color=f"C{i}", linewidth=0.9)
            axes.plot(*lines[0, i], marker="o", markersize=5, mfc="white", color=f"C{i}")
            axes.plot(*lines[-1, i], marker="o", markersize=6, color=f"C{i}")
        length = float(path_lengths_of(lines).mean())
        axes.set_title(f"{title}, in the plane: mean length {length:.1f}")
        axes.set(aspect="equal", xlabel="first coordinate", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
    row[0].set_ylabel("second coordinate")
    row[0].plot([], [], "o", color="0.3", mfc="white", label="noise $x_T$")
    row[0].plot([], [], "o", color="0.3", label="data $x_0$")
    row[0].legend(loc="lower left", fontsize=9, framealpha=0.9)


def _draw_digits(figure, seed: int) -> None:
    figure.suptitle("a digit along both paths, at shares of the path", fontsize=12)
    digits = StackedDigits(num_samples=500)
    # One of the three channels is one digit, in grey.
    images = torch.stack([digits[i]["x"][0] for i in range(len(digits))])
    means = images.flatten(1) / 127.5 - 1
    # Almost the digits themselves: a deviation of 1/20 of the range of a pixel's values.
    data = GaussianMixture(torch.full((500,), 1 / 500), means, torch.full((500,), 0.01))
    rows = figure.subplots(2, len(SHARES))
    for row, title, states in zip(rows, COLUMNS, both_paths(data, 1, seed), strict=True):
        for axes, share in zip(row, SHARES, strict=True):
            state = states[round(share * (len(states) - 1)), 0].reshape(images.shape[1:])
            axes.imshow(state, cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
            if title == COLUMNS[-1]:
                axes.set_xlabel(f"{share:g}")
        row[0].set_ylabel(title)

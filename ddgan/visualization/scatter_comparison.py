"""Samples of several methods on points in the plane side by side, DDGAN's Fig. 6."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

GOOD, BAD, MODE = "#1b6ca8", "#e4572e", "0.55"


@dataclass(frozen=True)
class ScatterPanel:
    """A method's points (N, 2), with what was measured of it, which its title shows."""

    name: str
    points: ArrayLike
    modes: int | None = None
    high_quality: float | None = None
    nfe: int | None = None


def plot_scatter_comparison(
    panels: Sequence[ScatterPanel],
    centres: ArrayLike,
    std: float,
    path: str | Path,
    note: str = "",
    num_stds: float = 4.0,
) -> None:
    """Write a PNG with a scatter plot for each panel, on common axes.

    ``centres`` is (K, 2). Points within ``num_stds`` deviations ``std`` of the nearest centre, the
    samples of high quality, are blue, others orange; a mode that no such point reaches is ringed.
    The titles' numbers are the panels' own, of as many samples as they were measured with.
    """
    from matplotlib.figure import Figure

    centres = np.asarray(centres, dtype=np.float64)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.9 * columns, 4.7 * rows + 0.4), dpi=120, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.08, wspace=0.03, hspace=0.03)
    reach = np.abs(centres).max() * 1.3
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip(grid, panels, strict=False):
        points = np.asarray(panel.points, dtype=np.float64)
        distances = np.linalg.norm(points[:, None] - centres, axis=-1)
        good = distances.min(axis=1) <= num_stds * std
        missed = np.setdiff1d(np.arange(len(centres)), distances.argmin(axis=1)[good])
        for mask, colour in ((~good, BAD), (good, GOOD)):
            axes.scatter(*points[mask].T, s=2.5, alpha=0.45, linewidths=0, color=colour)
        axes.scatter(
            *centres[missed].T, s=110, facecolors="none", edgecolors=MODE, linewidths=0.9, zorder=0
        )
        # The second line is the summary's, in another face.
        axes.set_title(f"{panel.name}\n ", loc="left", fontweight="bold", fontsize="medium")
        axes.text(
            0, 1.022, _summary(panel, len(centres)), transform=axes.transAxes, fontsize="small",
            color="0.3",
        )  # fmt: skip
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
        axes.set_aspect("equal")
        axes.spines[:].set_color("0.8")
        if outside := int((np.abs(points) > reach).any(axis=1).sum()):
            axes.text(
                0.985, 0.015, f"{outside / len(points):.1%} outside", transform=axes.transAxes,
                ha="right", fontsize="x-small", color=BAD,
            )  # fmt: skip
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_axis_off()
    key = f"blue: within {num_stds:g} σ of a mode; orange: farther; ring: a mode not reached"
    lines = [key, *textwrap.wrap(note, 50 * columns)]
    figure.supxlabel("\n".join(lines), fontsize="small", color="0.35")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _summary(panel: ScatterPanel, num_modes: int) -> str:
    parts = []
    if panel.modes is not None:
        parts.append(f"{panel.modes}/{num_modes} modes")
    if panel.high_quality is not None:
        parts.append(f"{100 * panel.high_quality:.1f} % high quality")
    if panel.nfe is not None:
        parts.append(f"{panel.nfe} evaluation" + "s" * (panel.nfe != 1))
    return " · ".join(parts)

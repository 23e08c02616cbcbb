"""Several methods in one figure: quality against time (DDGAN, Fig. 4), points (Fig. 6)."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ddgan.visualization.figure import new_figure, save_figure

GOOD, BAD, MODE = "#1b6ca8", "#e4572e", "0.55"


@dataclass(frozen=True)
class QualityTimePoint:
    """One system: seconds for a batch of 100 samples, its score, and whose measurement it is."""

    label: str
    seconds: float
    quality: float
    measured: bool


def plot_quality_time(
    points: Sequence[QualityTimePoint], path: str | Path, quality: str = "FID ↓"
) -> None:
    """Write a PNG with one point for each system, published ones grey and measured ones coloured.

    The time axis is logarithmic; so is the quality where its values span more than a factor of
    ten. Raises ValueError for a time that is not positive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if any(point.seconds <= 0 for point in points):
        raise ValueError("a sampling time is not positive; the plot's axis is logarithmic")
    figure = new_figure(9, 5.6, dpi=120)
    FigureCanvasAgg(figure)  # Measures the labels.
    axes = figure.add_subplot()
    styles = {
        False: {"color": "0.45", "marker": "o", "s": 34, "label": "published"},
        True: {"color": "#d1495b", "marker": "D", "s": 46, "label": "measured here"},
    }
    for measured, style in styles.items():
        group = [point for point in points if point.measured is measured]
        if group:
            x, y = [p.seconds for p in group], [p.quality for p in group]
            axes.scatter(x, y, zorder=3, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    values = [point.quality for point in points]
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="y", which="minor", labelsize="x-small", labelcolor="0.5")
    axes.margins(0.12, 0.1)
    _annotate(axes, points, styles)
    axes.set(xlabel="seconds for 100 samples (log)", ylabel=quality)
    axes.set_title("Sample quality against sampling time", loc="left", fontweight="bold")
    axes.grid(alpha=0.25, which="both", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="upper right", ncols=2, bbox_to_anchor=(1, 1.0))
    save_figure(figure, path)


def _annotate(axes, points: Sequence[QualityTimePoint], styles: dict[bool, dict]) -> None:
    """Label the points, each at the first free place around it."""
    renderer = axes.figure.canvas.get_renderer()
    axes.figure.draw_without_rendering()
    taken = [axes.transData.transform((point.seconds, point.quality)) for point in points]
    boxes: list = []
    # Right, left, above and below, near ones first.
    places = [
        (dx, dy, "left" if dx > 0 else "right" if dx < 0 else "center")
        for distance in (7, 16, 28)
        for dx, dy in ((1, 0), (-1, 0), (0, 1.3), (0, -1.3), (1, 1), (1, -1), (-1, 1), (-1, -1))
        for dx, dy in ((dx * distance, dy * distance),)
    ]
    for point in points:
        for place in places:
            dx, dy, side = place
            text = axes.annotate(
                point.label,
                (point.seconds, point.quality),
                (dx, dy),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize="small" if point.measured else "x-small",
                color=styles[point.measured]["color"],
            )
            box = text.get_window_extent(renderer)
            free = not any(box.overlaps(b) for b in boxes) and not any(
                box.contains(*position) for position in taken
            )
            if (free and axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)) or (
                place is places[-1]
            ):
                boxes.append(box)
                break
            text.remove()


@dataclass(frozen=True)
class ScatterPanel:
    """A method's points (N, 2), and the measurements for its title."""

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

    ``centres`` is (K, 2). Points within ``num_stds`` standard deviations ``std`` of a centre, the
    samples of high quality, are blue, others orange; a mode without such points is ringed. The
    titles' numbers are the panels' own, not those of the points drawn.
    """
    centres = np.asarray(centres, dtype=np.float64)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(3.9 * columns, 4.7 * rows + 0.4, dpi=120)
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
    save_figure(figure, path)


def _summary(panel: ScatterPanel, num_modes: int) -> str:
    parts = []
    if panel.modes is not None:
        parts.append(f"{panel.modes}/{num_modes} modes")
    if panel.high_quality is not None:
        parts.append(f"{100 * panel.high_quality:.1f} % high quality")
    if panel.nfe is not None:
        parts.append(f"{panel.nfe} evaluation" + "s" * (panel.nfe != 1))
    return " · ".join(parts)

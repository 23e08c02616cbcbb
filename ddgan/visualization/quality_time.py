"""Sample quality against sampling time, DDGAN's Fig. 4."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class QualityTimePoint:
    """One system: seconds for a batch of 100 samples, its score, and whose measurement it is."""

    label: str
    seconds: float
    quality: float
    measured: bool


def plot_quality_time(
    points: Sequence[QualityTimePoint], path: str | Path, quality: str = "FID ↓", note: str = ""
) -> None:
    """Write a PNG with one point for each system, published ones grey and measured ones coloured.

    The time axis is logarithmic, since the systems differ by factors of thousands; so is the
    quality where its values span more than a factor of ten. Raises ValueError for a time that is
    not positive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if any(point.seconds <= 0 for point in points):
        raise ValueError("a sampling time is not positive; the plot's axis is logarithmic")
    figure = Figure(figsize=(9, 5.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
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
    if note:
        figure.supxlabel(note, fontsize="x-small", color="0.4", x=0.01, ha="left")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _annotate(axes, points: Sequence[QualityTimePoint], styles: dict[bool, dict]) -> None:
    """Name the points, each label at the first free one of several places around its point."""
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

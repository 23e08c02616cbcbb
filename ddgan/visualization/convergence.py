"""A score along the training of several runs, SPI-GAN's Fig. 8."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def plot_convergence(
    curves: Mapping[str, Sequence[tuple[int, float]]], path: str | Path, score: str
) -> None:
    """Write a PNG with one line for each run: (iteration, score) of its checkpoints."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        points = sorted(points)
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set(xlabel="iteration", ylabel=score)
    axes.set_title("The score along the training", loc="left", fontweight="bold")
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")

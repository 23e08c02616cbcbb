"""Figures of matplotlib: made without a display, written in one step."""

from pathlib import Path

from ddgan.utils.files import write_atomically


def new_figure(width: float, height: float, dpi: int = 100):
    """An empty figure of ``width`` x ``height`` inches."""
    from matplotlib.figure import Figure  # It takes a second to import.

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def save_figure(figure, path: str | Path, **options) -> None:
    """Write a PNG; ``options`` are those of matplotlib's ``savefig``."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", **options))

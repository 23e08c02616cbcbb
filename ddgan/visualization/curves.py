"""Curves along a training: what a run logged, and scores of its checkpoints."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ddgan.errors import UserError
from ddgan.visualization.figure import new_figure, save_figure

# Title → the values that a panel shows if a run logs them; a name that ends with _ is a prefix.
PANELS = {
    "losses": ("loss", "d_loss", "g_loss"),
    "discriminator loss per time step": ("d_loss_step_",),
    "R1 penalty": ("r1",),
    "gradient penalty": ("gradient_penalty",),
    "path length penalty": ("path_length",),
    "probability of augmentation": ("augment_p",),
    "gradient norms": ("generator_grad_norm", "discriminator_grad_norm"),
}


def read_scalars(run: str | Path) -> dict[str, dict[int, float]]:
    """Name → {iteration: value} over all parts of a run; later parts replace earlier ones.

    Raises UserError if the folder holds no log.
    """
    files = sorted(Path(run).glob("*/vis_data/scalars.json"))
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (line for file in files for line in file.read_text().splitlines()):
        values = json.loads(line)
        step = values.pop("step", None)
        for name, value in values.items():
            if step is not None and isinstance(value, (int, float)):
                curves[name][step] = value
    if not curves:
        raise UserError(f"{run} holds no log of a training run (*/vis_data/scalars.json)")
    return curves


def panels_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Title → the curves among ``names`` that its panel shows, without empty panels."""
    found = {
        title: sorted(
            name
            for name in names
            if name in shown or (shown[0].endswith("_") and name.startswith(shown))
        )
        for title, shown in PANELS.items()
    }
    return {title: curves for title, curves in found.items() if curves}


def plot_curves(run: str | Path, path: str | Path) -> None:
    """Draw what a run logged as a PNG: losses, per time step as in DDGAN's Fig. 10, gradients.

    Raises UserError if the folder holds no log of such values.
    """
    curves = read_scalars(run)
    panels = panels_of(list(curves))
    if not panels:
        raise UserError(f"the log of {run} holds none of the curves {[*PANELS]}")
    columns = min(len(panels), 2 if len(panels) <= 4 else 3)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(5.5 * columns, 3.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (title, names) in zip(grid, panels.items(), strict=False):
        for name in names:
            steps = sorted(curves[name])
            label = name.replace("d_loss_step_", "step ")
            axes.plot(steps, [curves[name][s] for s in steps], label=label, linewidth=1)
        axes.set(title=title, xlabel="iteration")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_axis_off()
    save_figure(figure, path)


def plot_convergence(
    curves: Mapping[str, Sequence[tuple[int, float]]], path: str | Path, score: str
) -> None:
    """Write a PNG with a line for each run through its (iteration, score): SPI-GAN, Fig. 8."""
    figure = new_figure(8, 5, dpi=120)
    axes = figure.add_subplot()
    for name, points in curves.items():
        points = sorted(points)
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set(xlabel="iteration", ylabel=score)
    axes.set_title("The score along the training", loc="left", fontweight="bold")
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, path)

"""Curves of a training run, from the scalars that it logged."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ddgan.errors import UserError

# Title → what is drawn, where a run logs it; a name that ends with _ stands for all that begin so.
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
    """Return name → {iteration: value} over all parts of a run; later parts replace earlier ones.

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
    """Return title → the curves among ``names`` that its panel shows, without empty panels."""
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
    from matplotlib.figure import Figure

    curves = read_scalars(run)
    panels = panels_of(list(curves))
    if not panels:
        raise UserError(f"the log of {run} holds none of the curves {[*PANELS]}")
    columns = min(len(panels), 2 if len(panels) <= 4 else 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.5 * columns, 3.5 * rows), dpi=100, layout="constrained")
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
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")

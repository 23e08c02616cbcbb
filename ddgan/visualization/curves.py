"""Curves of a training run, from the scalars that it logged."""

import json
from collections import defaultdict
from pathlib import Path

from ddgan.errors import UserError

PANELS = {
    "losses": ("d_loss", "g_loss"),
    "discriminator loss per time step": ("d_loss_step_",),
    "R1 penalty": ("r1",),
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


def plot_curves(run: str | Path, path: str | Path) -> None:
    """Draw the losses, per time step as in DDGAN's Fig. 10, and gradients of a run as a PNG."""
    from matplotlib.figure import Figure

    curves = read_scalars(run)
    figure = Figure(figsize=(11, 7), dpi=100, layout="constrained")
    for axes, (title, prefixes) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for name in sorted(curves):
            if name in prefixes or (prefixes[0].endswith("_") and name.startswith(prefixes)):
                steps = sorted(curves[name])
                label = name.replace("d_loss_step_", "t = ")
                axes.plot(steps, [curves[name][s] for s in steps], label=label, linewidth=1)
        axes.set(title=title, xlabel="iteration")
        if axes.lines:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")

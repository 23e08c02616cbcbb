"""The README.md that an experiment leaves: published numbers next to measured ones."""

import os
import platform
import time
from pathlib import Path

import torch

import ddgan
from ddgan.experiments.catalogue import COLUMNS, ROOT, TRAININGS, published_values
from ddgan.experiments.measured import Measured, read_measured
from ddgan.experiments.plan import Plan, figure_file
from ddgan.experiments.steps import Step
from ddgan.experiments.tables import MISSING, format_published, format_value, header, table_row
from ddgan.utils.files import write_atomically

SMALL_FORM = (
    "> The small form runs the same code on less: the data, the networks or the length of "
    "training are not the paper's. Its numbers show that the path works and must not be compared "
    "with the published ones. Such trainings end long before they have settled: what the paper "
    "reports need not show in them."
)
CAPTIONS = {
    "samples": "Samples of {}",
    "curves": "Training of {}",
    "denoising-1d": "Diffusion and true denoising distributions",
    "quality-time": "Sample quality against sampling time",
    "points": "Data and samples of each method",
    "multimodal": "Draws of p(x_0 | x_t), {}",
    "strokes": "The painting and images that follow it",
    "neighbours": "Samples of {} (left) and their neighbours",
    "paths": "Reverse SDE and straight interpolation",
    "latent-path": "From h(0) to h(1), {}",
    "interpolate-z": "Between two z",
    "interpolate-h": "Between two h(1)",
    "convergence": "The score along the training",
}


def write_readme(plan: Plan, command: str) -> Path:
    """Write README.md in the experiment's folder, with what is still to be done; returns it."""
    experiment = plan.experiment
    small = plan.options.small and bool(plan.folders)
    form = "small form" if small else "full size"
    lines = [f"# {experiment.name}", ""]
    lines += [f"{experiment.source}: {experiment.what}. This is the {form}.", ""]
    if small:
        lines += [SMALL_FORM, ""]
        lines += [f"- `{name}`: {stand_in(name)}" for name in plan.folders if name in TRAININGS]
        lines.append("")
    if experiment.expected:
        lines += [f"What the paper reports: {experiment.expected}", ""]
    if plan.folders and plan.metrics:
        lines += ["## Published and measured", "", *_comparison(plan), ""]
    if figures := _figures(plan):
        lines += ["## Figures", "", *figures]
    lines += ["## Steps", "", *_steps(plan), ""]
    lines += [
        "Each training's folder holds its config (`*.py`), log, checkpoints and records "
        "(`iter_*_*.json`, with the protocol of each measurement).",
        "",
        f"```bash\n{command}\n```",
        "",
        f"ddgan {ddgan.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {_device()}.",
    ]
    path = plan.folder / "README.md"
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def stand_in(training: str) -> str:
    """The config that takes a training's place in the small form, and what is changed in it."""
    small = TRAININGS[training].small
    changes = [f"{k}={v}" for k, v in small.options.items() if not k.startswith("default_hooks.")]
    return f"`{small.config.relative_to(ROOT)}` with `{' '.join(changes)}`"


def _comparison(plan: Plan) -> list[str]:
    """A table with a row for each training, published values next to measured ones."""
    published = {name: published_values(name) for name in plan.folders}
    measured = {name: _measured(checkpoint) for name, checkpoint in plan.checkpoints.items()}
    headings, rows = ["training"], {name: [name] for name in plan.folders}
    for column, place in COLUMNS.items():
        has_published = any(column in values for values in published.values())
        has_measured = any(one and one.value(column) is not None for one in measured.values())
        if has_published:
            headings.append(f"{place.label}, published")
            for name, cells in rows.items():
                cells.append(format_published(column, published[name].get(column)))
        if has_published or has_measured:
            headings.append(f"{place.label}, measured")
            for name, cells in rows.items():
                one = measured[name]
                cells.append(format_value(column, one.value(column) if one else None))
    headings.append("measured with")
    for name, cells in rows.items():
        cells.append(_how(measured[name]))
    return [*header(headings), *map(table_row, rows.values())]


def _measured(checkpoint: Path) -> Measured | None:
    """What was measured of a checkpoint, None if nothing was."""
    found = read_measured([checkpoint.parent]) if checkpoint.parent.is_dir() else []
    return next((one for one in found if one.checkpoint == checkpoint.name), None)


def _how(one: Measured | None) -> str:
    if one is None:
        return "not yet"
    protocols = one.protocols.values()
    nums = sorted({protocol["num"] for protocol in protocols if protocol.get("num")})
    devices = {str(p.get("device_name") or p.get("device") or "") for p in protocols} - {""}
    samples = [f"{' / '.join(f'{num:,}' for num in nums)} samples"] if nums else []
    return ", ".join([f"iteration {one.iteration:,}", *samples, *sorted(devices)])


def _figures(plan: Plan) -> list[str]:
    done = {step.outputs[0]: step.is_done() for step in plan.steps}
    lines = []
    for kind, training in plan.experiment.figures:
        file, caption = figure_file(kind, training), CAPTIONS[kind].format(training)
        path = plan.folder / file
        if path in done:
            drawn = [f"![{caption}]({file})", "", f"{caption}."]
            lines += [*(drawn if done[path] else [f"{caption}: not drawn yet."]), ""]
    return lines


def _steps(plan: Plan) -> list[str]:
    lines = ["| step | state | log |", "|---|---|---|"]
    for step in plan.steps:
        log = f"[log]({os.path.relpath(step.log, plan.folder)})" if step.log.exists() else MISSING
        lines.append(table_row([step.name, _state(step), log]))
    return lines


def _state(step: Step) -> str:
    if step.is_done():
        when = time.localtime(step.outputs[0].stat().st_mtime)
        return f"done {time.strftime('%Y-%m-%d %H:%M', when)}"
    return "begun" if step.log.exists() else "to do"


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"CPU, {torch.get_num_threads()} threads"

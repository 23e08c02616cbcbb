"""The README.md that an experiment leaves: published numbers beside measured ones."""

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

import ddgan
from ddgan.experiments.measured import Measured, read_measured
from ddgan.experiments.plan import Plan
from ddgan.experiments.published import COLUMNS, TABLES
from ddgan.experiments.runs import RUNS
from ddgan.experiments.stages import Stage
from ddgan.experiments.tables import MISSING, format_published, format_value


def write_readme(plan: Plan, command: str) -> Path:
    """Write and return README.md in the experiment's folder; it says what is still to be done."""
    experiment, form = plan.experiment, plan.form
    is_small = form.small and bool(plan.runs)
    form_text = "small form" if is_small else "full size"
    lines = [
        f"# {experiment.name}",
        "",
        f"{experiment.source}: {experiment.what}. This is the {form_text}.",
        "",
    ]
    if is_small:
        lines += [
            "> The small form runs the same code on less: the data, the networks or the length of "
            "training are not the paper's. Its numbers show that the path works and must not be "
            "compared with the published ones. Such trainings end long before they have settled: "
            "what the paper reports need not show in them.",
            "",
            *(f"- `{run}`: {stand_in(run)}" for run in plan.runs if run in RUNS),
            "",
        ]
    if experiment.expected:
        lines += [f"What the paper reports: {experiment.expected}", ""]
    if plan.runs and experiment.metrics(form.small):
        lines += ["## Published and measured", "", *_comparison(plan), ""]
    if figures := [stage for stage in plan.stages if stage.name.startswith("draw ")]:
        lines += ["## Figures", ""]
        for stage, figure in zip(figures, _drawn(plan), strict=True):
            image = _relative(stage.outputs[0], plan.folder)
            if stage.is_done():
                lines += [f"![{figure}]({image})", "", f"{figure}.", ""]
            else:
                lines += [f"{figure}: not drawn yet.", ""]
    lines += ["## Stages", "", *_stages(plan.stages, plan.folder), ""]
    lines += [
        "Each run's folder holds its config (`*.py`), log, checkpoints and records "
        "(`iter_*_*.json`, with the protocol of each measurement).",
        "",
        f"```bash\n{command}\n```",
        "",
        f"ddgan {ddgan.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {_device()}.",
    ]
    path = plan.folder / "README.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def _comparison(plan: Plan) -> list[str]:
    """Return a table with a line for each run, published values beside measured ones."""
    published = {run: published_values(run) for run in plan.runs}
    measured = {run: _measured(checkpoint) for run, checkpoint in plan.checkpoints.items()}
    headings, cells = ["run"], {run: [run] for run in plan.runs}
    for column, place in COLUMNS.items():
        has_published = any(column in values for values in published.values())
        has_measured = any(e and e.value(column) is not None for e in measured.values())
        if has_published:
            headings.append(f"{place.label}, published")
            for run, line in cells.items():
                line.append(format_published(column, published[run].get(column)))
        if has_published or has_measured:
            headings.append(f"{place.label}, measured")
            for run, line in cells.items():
                entry = measured[run]
                line.append(format_value(column, entry.value(column) if entry else None))
    headings.append("measured with")
    for run, line in cells.items():
        line.append(_how(measured[run]))
    return [
        _line(headings),
        "|---" + "|---:" * (len(headings) - 2) + "|---|",
        *(_line(line) for line in cells.values()),
    ]


def stand_in(run: str) -> str:
    """Return which config takes a run's place in the small form, and what is changed in it."""
    small = RUNS[run].small
    changes = [f"{k}={v}" for k, v in small.options.items() if not k.startswith("default_hooks.")]
    return f"`{small.config}` with `{' '.join(changes)}`"


def published_values(run: str) -> dict[str, float]:
    """Return column → published value of the system that a run stands for."""
    found: dict[str, float] = {}
    for table in TABLES.values():
        for ours in table.ours:
            if ours.config == run and ours.system is not None:
                values = table.published(ours.system).items()
                found = {column: v for column, v in values if v is not None} | found
    return found


def _measured(checkpoint: Path) -> Measured | None:
    """Return what was measured of a checkpoint, None if nothing was."""
    if not checkpoint.parent.is_dir():
        return None
    entries = read_measured([checkpoint.parent])
    return next((e for e in entries if e.checkpoint == checkpoint.name), None)


def _how(entry: Measured | None) -> str:
    if entry is None:
        return "not yet"
    protocols = entry.protocols.values()
    nums = sorted({protocol["num"] for protocol in protocols if protocol.get("num")})
    devices = {str(p.get("device_name") or p.get("device") or "") for p in protocols} - {""}
    parts = [f"iteration {entry.iteration:,}"]
    parts += [f"{' / '.join(f'{num:,}' for num in nums)} samples"] if nums else []
    return ", ".join([*parts, *sorted(devices)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _drawn(plan: Plan) -> list[str]:
    stages = {stage.name for stage in plan.stages}
    return [f.caption for f in plan.experiment.figures if f"draw {f.file}" in stages]


def _stages(stages: Sequence[Stage], folder: Path) -> list[str]:
    lines = ["| stage | of | state | minutes | log |", "|---|---|---|---:|---|"]
    for stage in stages:
        stamp = stage.read_stamp()
        done = stage.is_done()
        state = f"done {stamp['finished']}" if done else "begun" if stamp else "to do"
        minutes = f"{stamp.get('seconds', 0) / 60:.1f}" if stamp else MISSING
        owner = "" if stage.folder == folder else stage.folder.name
        log = _relative(stage.log, folder)
        log = f"[log]({log})" if stage.log.exists() else MISSING
        lines.append(f"| {stage.name} | {owner} | {state} | {minutes} | {log} |")
    return lines


def _relative(path: Path, folder: Path) -> str:
    try:
        return str(path.relative_to(folder))
    except ValueError:
        return f"../{path.relative_to(folder.parent)}"


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"CPU, {torch.get_num_threads()} threads"

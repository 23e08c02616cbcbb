"""From an experiment to its steps: train, test, draw."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine import Config

from ddgan.engine import load_config
from ddgan.errors import ConfigError, UserError
from ddgan.evaluation import record_path
from ddgan.experiments.catalogue import ROOT, TRAININGS, Experiment, Resampled
from ddgan.experiments.steps import Step, has_samples

CURVE_POINTS = 8
# The parts of a config that decide what is trained.
DECISIVE = (
    "model", "train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg", "randomness",
    "compile",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How an experiment is to be run.

    ``out`` is the folder of all experiments. ``gpus`` replaces each training's own number,
    ``settings`` change every config (dotted keys), ``num`` is the number of samples of every
    metric, and ``only`` leaves out other trainings.
    """

    out: Path
    small: bool = False
    gpus: int | None = None
    num: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    only: Sequence[str] = ()

    def processes(self, training: str) -> int:
        """How many processes train; 0 is one on whatever device there is."""
        if self.gpus is not None:
            return self.gpus
        return 0 if self.small else TRAININGS[training].gpus


@dataclass
class Plan:
    """The steps of an experiment in order, and each training's folder and last checkpoint.

    ``planned`` maps what decides a training that is not begun yet to its folder.
    """

    experiment: Experiment
    options: Options
    folders: dict[str, Path] = field(default_factory=dict)
    checkpoints: dict[str, Path] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    planned: dict[str, Path] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of the figures and the README, and of trainings that are not shared."""
        return self.options.out / (self.experiment.name + "-small" * self.options.small)

    @property
    def metrics(self) -> Sequence[str]:
        """What is measured of each training."""
        experiment = self.experiment
        return experiment.small_metrics if self.options.small else experiment.metrics


def make_plan(experiment: Experiment, options: Options) -> Plan:
    """The steps of an experiment; a training with the same settings below ``out`` is used.

    Raises UserError for a name in ``only`` that is no training of the experiment and for a folder
    that holds a training with other settings, and ConfigError for settings that do not fit.
    """
    if unknown := sorted(set(options.only) - set(experiment.trainings)):
        known = [*experiment.trainings]
        raise UserError(f"--only {unknown}: {experiment.name} has the trainings {known}")
    plan = Plan(experiment, options)
    for name in options.only or experiment.trainings:
        _add_training(plan, name)
    for name, resampled in experiment.resampled.items():
        if resampled.of in plan.folders:
            _add_resampled(plan, name, resampled)
    for kind, training in experiment.figures:
        if training in plan.folders or (training is None and not options.only):
            _add_figure(plan, kind, training)
    return plan


def figure_file(kind: str, training: str | None) -> str:
    """The file of a figure below the experiment's folder."""
    if kind == "strokes":
        return "strokes/grid.png"
    return f"{kind}_{training}.png" if training else f"{kind}.png"


def _add_training(plan: Plan, name: str) -> None:
    options = plan.options
    setup = TRAININGS[name].small if options.small else TRAININGS[name].full
    settings = {**setup.options, **options.settings}
    cfg = load_config(setup.config, settings)
    folder = _folder_of(plan, name, setup.config, cfg)
    iterations = int(cfg.train_cfg.max_iters)
    plan.folders[name] = folder
    plan.checkpoints[name] = folder / f"iter_{iterations}.pth"
    if any(step.folder == folder for step in plan.steps):
        return  # Small forms of several trainings are often the same.
    gpus = options.processes(name)
    train = [*_script("dist_train.sh"), str(setup.config), str(gpus)]
    if gpus <= 1:
        train = [*_tool("train"), str(setup.config)]
    train += ["--work-dir", str(folder), "--resume"]
    if settings:
        train += ["--cfg-options", *(f"{key}={_text(value)}" for key, value in settings.items())]
    last = plan.checkpoints[name]
    plan.steps.append(
        Step(f"train {folder.name}", folder, tuple(train), (last,), iterations=iterations)
    )
    _add_test(plan, last, gpus)
    if plan.experiment.curve:
        saved = int(cfg.default_hooks.checkpoint.interval)
        every = saved * math.ceil(iterations / saved / CURVE_POINTS)
        for iteration in range(every, iterations, every):
            _add_test(plan, folder / f"iter_{iteration}.pth", gpus)


def _folder_of(plan: Plan, name: str, config: Path, cfg: Config) -> Path:
    """The folder of a training: one below ``out`` with the same settings, or a new one."""
    wanted = _decisive(cfg)
    for path in sorted(plan.options.out.glob(f"*/*/{config.name}")):
        if _decisive_in(path) == wanted:
            return path.parent
    folder = plan.folder / (name + "-small" * plan.options.small)
    if (folder / config.name).exists():
        raise UserError(
            f"{folder} holds a training with other settings than those asked for (see its "
            f"{config.name}); remove it, or choose another --out"
        )
    return plan.planned.setdefault(wanted, folder)


def _decisive(cfg: Config) -> str:
    parts = cfg.to_dict()
    return json.dumps({key: parts.get(key) for key in DECISIVE}, sort_keys=True, default=str)


def _decisive_in(path: Path) -> str | None:
    """What decides the training whose folder holds this config, None if it cannot be read."""
    try:
        return _decisive(load_config(path))
    except ConfigError:  # Half a file, or a config of another version.
        return None


def _add_test(plan: Plan, checkpoint: Path, gpus: int) -> None:
    metrics, num = plan.metrics, plan.options.num
    if not metrics:
        return
    records = {metric: record_path(checkpoint, metric) for metric in metrics}
    missing = [metric for metric, record in records.items() if not has_samples(record, num)]
    test = [*_script("dist_test.sh"), str(gpus)] if gpus > 1 else _tool("test")
    command = [*test, str(checkpoint), "--metric", *(missing or metrics)]
    if num is not None:
        command += ["--num", str(num)]
    name = f"test {checkpoint.parent.name} {checkpoint.stem}"
    folder = checkpoint.parent
    plan.steps.append(Step(name, folder, tuple(command), tuple(records.values()), num=num))


def _add_resampled(plan: Plan, name: str, resampled: Resampled) -> None:
    """Export the weights with other settings, and test them."""
    label = name + "-small" * plan.options.small
    source = plan.checkpoints[resampled.of]
    out = plan.folder / label / f"{source.stem}.safetensors"
    plan.folders[name], plan.checkpoints[name] = out.parent, out
    settings = [f"{key}={_text(value)}" for key, value in resampled.options.items()]
    command = (*_tool("export"), str(source), str(out), "--name", label, "--cfg-options", *settings)
    plan.steps.append(Step(f"export {label}", out.parent, command, (out,), (source,)))
    _add_test(plan, out, plan.options.processes(resampled.of))


def _add_figure(plan: Plan, kind: str, training: str | None) -> None:
    out = plan.folder / figure_file(kind, training)
    own_folder = None if out.parent == plan.folder else out.parent
    folders = {plan.folders[training]} if training else set(plan.folders.values())
    inputs = tuple(path for step in plan.steps if step.folder in folders for path in step.outputs)
    command = (*_drawing(plan, kind, training), "--out", str(own_folder or out))
    name = f"draw {out.relative_to(plan.folder)}"
    plan.steps.append(
        Step(name, plan.folder, command, (out,), inputs=inputs, own_folder=own_folder)
    )


def _drawing(plan: Plan, kind: str, training: str | None) -> list[str]:
    """The command of a figure without its ``--out``."""
    checkpoint = [str(plan.checkpoints[training])] if training else []
    match kind:
        case "samples":
            return [*_tool("sample"), *checkpoint, "--num", "64"]
        case "curves":
            return [*_tool("visualize"), kind, str(plan.folders[training])]
        case "points":
            names = [TRAININGS[name].title for name in plan.checkpoints]
            checkpoints = map(str, plan.checkpoints.values())
            return [*_tool("visualize"), kind, *checkpoints, "--names", *names]
        case "strokes":
            painting = str(ROOT / "docs/images/strokes_church.png")
            return [*_tool("edit"), *checkpoint, painting, "--start-step", "2", "--num", "8"]
        case "neighbours":
            # VGG is for larger images than the small forms'.
            small = ["--extractor", "pixels", "--num-data", "2000"] * plan.options.small
            return [*_tool("neighbours"), *checkpoint, *small]
        case "quality-time" | "convergence":
            score = "kl" if "modes" in plan.metrics else "fid"
            folders = map(str, plan.folders.values())
            return [*_tool("report"), *folders, "--figure", kind, "--score", score]
        case _:
            return [*_tool("visualize"), kind, *checkpoint]


def _tool(name: str) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / f"{name}.py")]


def _script(name: str) -> list[str]:
    return ["bash", str(ROOT / "tools" / name)]


def _text(value: Any) -> str:
    """A value as ``--cfg-options`` reads it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    return str(value)

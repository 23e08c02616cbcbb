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
from ddgan.errors import UserError
from ddgan.evaluation import record_path
from ddgan.experiments.catalogue import ROOT, TRAININGS, Experiment, Setup
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

    ``out`` is the folder of all experiments. ``gpus`` replaces each training's own number; the
    global batch stays. ``launcher`` "slurm" starts processes by srun, also on several machines.
    ``settings`` are the "paper"'s or the "release"'s, by default the experiment's. ``overrides``
    change every config (dotted keys), ``num`` is the number of samples of every metric, and
    ``only`` leaves out other trainings.
    """

    out: Path
    small: bool = False
    gpus: int | None = None
    num: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    only: Sequence[str] = ()
    settings: str | None = None
    launcher: str = "pytorch"

    def processes(self, training: str) -> int:
        """How many processes train; 0 is one on whatever device there is."""
        if self.gpus is not None:
            return self.gpus
        return 0 if self.small else TRAININGS[training].gpus


@dataclass
class Plan:
    """The steps of an experiment in order, and each training's folder and last checkpoint.

    ``configs`` are those of the trainings, by folder. ``planned`` maps what decides a training that
    is not begun yet to its folder.
    """

    experiment: Experiment
    options: Options
    folders: dict[str, Path] = field(default_factory=dict)
    checkpoints: dict[str, Path] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    configs: dict[Path, Config] = field(default_factory=dict)
    planned: dict[str, Path] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of the figures and the README, and of trainings that are not shared."""
        form = "-small" if self.options.small else f"-{self.options.settings or ''}".rstrip("-")
        return self.options.out / (self.experiment.name + form.removesuffix("-release"))

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
        if resampled["of"] in plan.folders:
            _add_resampled(plan, name, **resampled)
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
    setup, label = _setup(plan, name)
    overrides = {**setup.options, **options.overrides}
    cfg = load_config(setup.config, overrides)
    iterations = int(cfg.train_cfg.max_iters)
    if not options.small:
        overrides |= _same_batch(cfg, name, options)
        overrides |= {"default_hooks.checkpoint.keep_every": _kept_every(cfg)}
        cfg = load_config(setup.config, overrides)
    folder = _folder_of(plan, label, setup.config, cfg)
    plan.folders[name] = folder
    plan.checkpoints[name] = folder / f"iter_{iterations}.pth"
    if folder in plan.configs:
        return  # Small forms of several trainings are often the same.
    plan.configs[folder] = cfg
    gpus = options.processes(name)
    train = _launch("train", gpus, options.launcher, str(setup.config))
    train += ["--work-dir", str(folder), "--resume"]
    if overrides:
        train += ["--cfg-options", *(f"{key}={_text(value)}" for key, value in overrides.items())]
    last = plan.checkpoints[name]
    plan.steps.append(
        Step(f"train {folder.name}", folder, tuple(train), (last,), iterations=iterations)
    )
    _add_test(plan, last, gpus, plan.metrics)
    for checkpoint in _along(plan, folder, cfg):
        _add_test(plan, checkpoint, gpus, [metric for metric in plan.metrics if metric != "time"])


def _setup(plan: Plan, name: str) -> tuple[Setup, str]:
    """The config of a training, and the name of its folder."""
    training = TRAININGS[name]
    if plan.options.small:
        return training.small, f"{name}-small"
    settings = plan.options.settings or plan.experiment.settings
    if settings == "paper" and training.paper != training.full:
        return training.paper, f"{name}-paper"
    return training.full, name


def _same_batch(cfg: Config, name: str, options: Options) -> dict[str, int]:
    """The batch of a process with which the global batch is the config's."""
    key = "train_dataloader.batch_size"
    if options.gpus is None or key in options.overrides:
        return {}
    batch, gpus = cfg.train_dataloader.batch_size * max(TRAININGS[name].gpus, 1), options.gpus
    if batch % max(gpus, 1):
        raise UserError(
            f"--gpus {gpus}: {name} has a global batch of {batch}, which {gpus} processes cannot "
            f"share equally; choose a divisor of it, or another batch with --cfg-options {key}=N"
        )
    return {key: batch // max(gpus, 1)}


def _kept_every(cfg: Config) -> int:
    """The interval of the checkpoints that are kept to be measured."""
    interval, iterations = int(cfg.default_hooks.checkpoint.interval), int(cfg.train_cfg.max_iters)
    return interval * math.ceil(iterations / interval / CURVE_POINTS)


def _along(plan: Plan, folder: Path, cfg: Config) -> list[Path]:
    """The checkpoints along a training that are measured: for curves, and to select by FID."""
    is_curve = "convergence" in [kind for kind, _ in plan.experiment.figures]
    if not (is_curve or (not plan.options.small and "fid" in plan.metrics)):
        return []
    every = _kept_every(cfg)
    return [folder / f"iter_{i}.pth" for i in range(every, int(cfg.train_cfg.max_iters), every)]


def _folder_of(plan: Plan, label: str, config: Path, cfg: Config) -> Path:
    """The folder of a training: one below ``out`` with the same settings, or a new one."""
    wanted = _decisive(cfg)
    for path in sorted(plan.options.out.glob(f"*/*/{config.name}")):
        if _decisive_in(path) == wanted:
            return path.parent
    folder = plan.folder / label
    if (folder / config.name).exists():
        raise UserError(
            f"{folder} holds a training with other settings than those asked for (see its "
            f"{config.name}); remove it, or choose another --out"
        )
    return plan.planned.setdefault(wanted, folder)


def _decisive(cfg: Config) -> str:
    parts = cfg.to_dict()
    # How data are read decides nothing, and its keys have changed between versions.
    parts["train_dataloader"] = {k: parts["train_dataloader"][k] for k in ("dataset", "batch_size")}
    return json.dumps({key: parts.get(key) for key in DECISIVE}, sort_keys=True, default=str)


def _decisive_in(path: Path) -> str | None:
    """What decides the training whose folder holds this config, None if it cannot be read."""
    try:
        return _decisive(Config.fromfile(path))
    except Exception:  # The file is Python that mmengine wrote; an interruption may have cut it.
        return None


def _add_test(plan: Plan, checkpoint: Path, gpus: int, metrics: Sequence[str]) -> None:
    num = plan.options.num
    if not metrics:
        return
    records = {metric: record_path(checkpoint, metric) for metric in metrics}
    missing = [metric for metric, record in records.items() if not has_samples(record, num)]
    command = _launch("test", gpus, plan.options.launcher, str(checkpoint))
    command += ["--metric", *(missing or metrics)]
    if num is not None:
        command += ["--num", str(num)]
    name = f"test {checkpoint.parent.name} {checkpoint.stem}"
    folder = checkpoint.parent
    plan.steps.append(Step(name, folder, tuple(command), tuple(records.values()), num=num))


def _add_resampled(plan: Plan, name: str, of: str, options: Mapping[str, Any]) -> None:
    """Export the weights with other settings, and test them."""
    label = name + "-small" * plan.options.small
    source = plan.checkpoints[of]
    out = plan.folder / label / f"{source.stem}.safetensors"
    plan.folders[name], plan.checkpoints[name] = out.parent, out
    settings = [f"{key}={_text(value)}" for key, value in options.items()]
    command = (*_tool("export"), str(source), str(out), "--name", label, "--cfg-options", *settings)
    plan.steps.append(Step(f"export {label}", out.parent, command, (out,), (source,)))
    _add_test(plan, out, plan.options.processes(of), plan.metrics)


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


def _launch(name: str, processes: int, launcher: str, file: str) -> list[str]:
    """The start of a command for a tool on several processes, up to its config or checkpoint."""
    if processes <= 1:
        return [*_tool(name), file]
    if launcher == "slurm":
        srun = ["srun", "--kill-on-bad-exit=1", f"--ntasks={processes}"]
        return [*srun, *_tool(name), file, "--launcher", "slurm"]
    script = ["bash", str(ROOT / "tools" / f"dist_{name}.sh")]
    return [*script, *((file, str(processes)) if name == "train" else (str(processes), file))]


def _text(value: Any) -> str:
    """A value as ``--cfg-options`` reads it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    return str(value)

"""From an experiment to its stages: train, test, draw."""

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine import Config

from ddgan.engine import load_config
from ddgan.engine.config import config_to_json
from ddgan.errors import UserError
from ddgan.evaluation import record_path
from ddgan.experiments.catalogue import Experiment, Figure, Resampled
from ddgan.experiments.runs import RUNS, Run
from ddgan.experiments.stages import STAMPS, Stage

TRAIN, TEST = "train", "test"
CURVE_POINTS = 8
# What a config says about reporting and the machine decides nothing about the weights.
_INDIFFERENT = ("default_hooks", "custom_hooks", "visualizer", "env_cfg", "log_level")


@dataclass(frozen=True)
class Form:
    """How an experiment is to be run.

    ``out`` is the folder of all experiments, ``root`` the repository. ``gpus`` takes the place of
    each run's own number. ``options`` change every config (dotted keys), ``num`` the samples of
    every metric; ``only`` leaves out other runs.
    """

    out: Path
    root: Path
    small: bool = False
    gpus: int | None = None
    num: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    only: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """The stages of an experiment in order, its folder, and each run's folder and checkpoint."""

    experiment: Experiment
    form: Form
    folder: Path
    runs: dict[str, Path]
    checkpoints: dict[str, Path]
    stages: tuple[Stage, ...]


def make_plan(experiment: Experiment, form: Form) -> Plan:
    """Return the stages of an experiment.

    A run that another experiment in ``form.out`` has begun with the same settings is used from
    there. Raises UserError for an ``only`` that is no run of the experiment, and ConfigError for a
    config or option that does not fit.
    """
    if unknown := sorted(set(form.only) - set(experiment.runs)):
        raise UserError(f"--only {unknown}: {experiment.name} has the runs {[*experiment.runs]}")
    folder = form.out / (experiment.name + "-small" * form.small)
    plan = Plan(experiment, form, folder, {}, {}, ())
    stages: list[Stage] = []
    for name in experiment.runs:
        if form.only and name not in form.only:
            continue
        train, saved = _train(RUNS[name], form, folder)
        # Two runs of the same settings are one; small forms often are.
        train = next((stage for stage in stages if stage.digest == train.digest), train)
        plan.runs[name] = train.folder
        plan.checkpoints[name] = train.outputs[0]
        if train not in stages:
            stages += [train, *_tests(experiment, RUNS[name], train, saved, form)]
    for one in experiment.resampled:
        if one.of in plan.runs:
            trains = [stage for stage in stages if stage.folder == plan.runs[one.of]]
            stages += _resample(one, plan, trains[0])
    inputs = tuple(stages)
    for figure in experiment.figures:
        needed = set(re.findall(r"\{(?:ckpt|run):([^}]+)\}", " ".join(figure.command)))
        if needed <= plan.runs.keys():
            used = inputs if experiment.resampled else _of_runs(inputs, plan, needed)
            stages.append(_draw(figure, plan, used))
    return Plan(experiment, form, folder, plan.runs, plan.checkpoints, tuple(stages))


def _train(run: Run, form: Form, folder: Path) -> tuple[Stage, int]:
    """Return the training and the interval of its checkpoints."""
    training = run.small if form.small else run.full
    options = {**training.options, **form.options}
    config = form.root / training.config
    cfg = load_config(config, options)
    iterations = int(cfg.train_cfg.max_iters)
    gpus = _processes(run, form)
    # A launcher changes nothing in what is trained; the number of processes is that of batches.
    interval = int(cfg.default_hooks.checkpoint.interval)
    decisive = Config({k: v for k, v in cfg.to_dict().items() if k not in _INDIFFERENT})
    identity = f"{max(gpus, 1)} x {config_to_json(decisive)}"
    name = run.name + "-small" * form.small
    where = _existing(form.out, identity) or folder / name
    arguments = ["--work-dir", str(where), "--resume"]
    if options:
        arguments += ["--cfg-options", *(f"{k}={_text(v)}" for k, v in options.items())]
    if gpus > 1:
        launcher = ("bash", str(form.root / "tools/dist_train.sh"), str(config), str(gpus))
    else:
        launcher = (sys.executable, str(form.root / "tools/train.py"), str(config))
    command = (*launcher, *arguments)
    checkpoint = where / f"iter_{iterations}.pth"
    return Stage(TRAIN, where, command, (checkpoint,), identity, iterations=iterations), interval


def _existing(out: Path, identity: str) -> Path | None:
    """Return the folder in which a training of this identity was begun, if there is one."""
    for stamp in sorted(out.glob(f"*/*/{STAMPS}/{TRAIN}.json")):
        folder = stamp.parents[1]
        candidate = Stage(TRAIN, folder, (), (), identity)
        if candidate.read_stamp().get("digest") == candidate.digest:
            return folder
    return None


def _processes(run: Run, form: Form) -> int:
    """Return how many processes train, 0 for one on whatever device there is."""
    return form.gpus if form.gpus is not None else (0 if form.small else run.gpus)


def _tests(experiment: Experiment, run: Run, train: Stage, saved: int, form: Form) -> list[Stage]:
    """Return the test of the last checkpoint, and of earlier ones for a curve.

    ``saved`` is the interval in which checkpoints are kept.
    """
    metrics = experiment.metrics(form.small)
    if not metrics:
        return []
    checkpoints = [train.outputs[0]]
    if experiment.is_curve:
        every = saved * math.ceil(train.iterations / saved / CURVE_POINTS)
        earlier = range(every, train.iterations, every)
        checkpoints += [train.folder / f"iter_{i}.pth" for i in earlier]
    gpus = _processes(run, form)
    return [_test(metrics, checkpoint, train, form, gpus) for checkpoint in checkpoints]


def _of_runs(stages: Sequence[Stage], plan: Plan, names: Iterable[str]) -> tuple[Stage, ...]:
    folders = {plan.runs[name] for name in names}
    return tuple(stage for stage in stages if stage.folder in folders)


def _resample(one: Resampled, plan: Plan, train: Stage) -> list[Stage]:
    """Return the export of a run's weights under other settings, and its test."""
    experiment, form = plan.experiment, plan.form
    name = one.name + "-small" * form.small
    out = plan.folder / name / f"{train.outputs[0].stem}.safetensors"
    options = [f"{key}={_text(value)}" for key, value in one.options.items()]
    arguments = ("--name", name, "--cfg-options", *options)
    tool = str(form.root / "tools/export.py")
    command = (sys.executable, tool, str(train.outputs[0]), str(out), *arguments)
    export = Stage("export", out.parent, command, (out,), " ".join(arguments), (train,))
    plan.runs[one.name], plan.checkpoints[one.name] = out.parent, out
    metrics = experiment.metrics(form.small)
    return [export, _test(metrics, out, export, form, _processes(RUNS[one.of], form))]


def _test(metrics: Sequence[str], checkpoint: Path, train: Stage, form: Form, gpus: int) -> Stage:
    tools = form.root / "tools"
    tester = (sys.executable, str(tools / "test.py"))
    if gpus > 1:
        tester = ("bash", str(tools / "dist_test.sh"), str(gpus))
    arguments = ["--metric", *metrics]
    if form.num is not None:
        arguments += ["--num", str(form.num)]
    suffix = "" if checkpoint == train.outputs[0] else f" {checkpoint.stem}"
    return Stage(
        f"{TEST}{suffix}",
        train.folder,
        (*tester, str(checkpoint), *arguments),
        tuple(record_path(checkpoint, metric) for metric in metrics),
        " ".join(arguments),
        (train,),
    )


def _draw(figure: Figure, plan: Plan, inputs: tuple[Stage, ...]) -> Stage:
    experiment, form = plan.experiment, plan.form
    metrics = experiment.metrics(form.small)
    places = {
        "root": form.root,
        "runs": plan.folder,
        "score": "kl" if "modes" in metrics else "fid",
        **{f"ckpt:{name}": path for name, path in plan.checkpoints.items()},
        **{f"run:{name}": path for name, path in plan.runs.items()},
    }
    out = plan.folder / figure.file
    # A tool that fills a folder wants a new one.
    own_folder = None if out.parent == plan.folder else out.parent
    parts = (*figure.command, str(own_folder or out), *(figure.small if form.small else ()))
    command = [re.sub(r"\{([^}]+)\}", lambda m: str(places[m[1]]), part) for part in parts]
    return Stage(
        f"draw {figure.file}",
        plan.folder,
        (sys.executable, *command),
        (out,),
        " ".join((*figure.command, *(figure.small if form.small else ()))),
        inputs,
        own_folder=own_folder,
    )


def _text(value: Any) -> str:
    """Return a value as ``--cfg-options`` reads it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    return str(value)

"""What an experiment lacks, found before its first step: packages, weights, data, GPUs, space."""

import functools
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from mmengine import Config

from ddgan.data import check_batch_size
from ddgan.engine.optim import build_optim_wrappers
from ddgan.evaluation.evaluator import build_metrics, reference_dataset
from ddgan.experiments.catalogue import TRAININGS
from ddgan.experiments.plan import Plan
from ddgan.models.base import check_shapes
from ddgan.registry import DATASETS, MODELS
from ddgan.utils.cli import USER_ERRORS, message_of

GIB = 2**30


def find_problems(plan: Plan) -> list[str]:
    """A sentence for each thing that would end the plan's unfinished steps with an error.

    Models and data sets are built and compared, extractors are built (which fetches their weights),
    and the number of samples of each metric, the number of GPUs and the space for checkpoints are
    checked.
    """
    unfinished = {step.folder for step in plan.steps if not step.is_done()}
    owners: dict[str, list[str]] = defaultdict(list)
    needed = 0
    for folder, cfg in plan.configs.items():
        if folder not in unfinished:
            continue
        size, texts = _training_problems(cfg)
        needed += size
        for text in (*texts, *_metric_problems(plan, cfg)):
            owners[text].append(folder.name)
    # Trainings with the same data or metrics lack the same things.
    found = [f"{', '.join(names)}: {text}" for text, names in owners.items()]
    return [*_device_problems(plan), *found, *_space_problems(plan.folder, needed)]


def report_of(problems: Iterable[str]) -> str:
    """The problems as one message."""
    lines = list(problems)
    return f"{len(lines)} problem(s) to solve first:\n" + "\n".join(f"- {line}" for line in lines)


def _device_problems(plan: Plan) -> Iterator[str]:
    options = plan.options
    if options.launcher == "slurm":
        if shutil.which("srun") is None:
            yield "--launcher slurm: there is no srun; run this in an allocation of Slurm"
        return
    if int(os.environ.get("NNODES", "1")) > 1:
        yield "NNODES is set: several machines take --launcher slurm"
    if options.small or options.gpus is not None:
        return
    needed = max((TRAININGS[name].gpus for name in plan.folders if name in TRAININGS), default=0)
    if needed > (found := torch.cuda.device_count()):
        yield (
            f"{plan.experiment.name} is made for {needed} GPUs and this machine has {found}: use "
            "--small, or --gpus N for another number with the same global batch"
        )


def _training_problems(cfg: Config) -> tuple[int, list[str]]:
    """The size of a training's checkpoints, and what its model and data lack."""
    size = 0
    try:
        with torch.device("meta"):
            model = MODELS.build(cfg.model)
        size = _checkpoint_bytes(cfg, model)
        build_optim_wrappers(cfg.optim_wrapper, model)
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        check_shapes(dataset, model)
        check_batch_size(dataset, cfg.train_dataloader.batch_size)
        if "evaluation_dataset" in cfg:
            check_shapes(reference_dataset(cfg), model)
    except USER_ERRORS as error:
        return size, [message_of(error)]
    return size, []


def _metric_problems(plan: Plan, cfg: Config) -> Iterator[str]:
    for name in plan.metrics:
        try:
            metric = build_metrics([name], cfg.get("evaluation", {}))[name]
            if (extractor := getattr(metric, "extractor", None)) is not None:
                text = json.dumps(extractor, sort_keys=True, default=str)
                if (problem := extractor_problem(text)) is not None:
                    yield problem
        except USER_ERRORS as error:
            yield f"{name}: {message_of(error)}"
            continue
        settings = getattr(metric, "settings", {})
        least = settings.get("splits", settings.get("k", 0) + 1)
        num = plan.options.num or getattr(metric, "num", least)
        if num < least:
            yield f"{name}: {num} samples are asked for; it takes at least {least}"


@functools.cache
def extractor_problem(extractor: str) -> str | None:
    """Why an extractor, its config as JSON, cannot be built with its weights; None if it can."""
    try:
        MODELS.build(json.loads(extractor))
    except USER_ERRORS as error:
        return message_of(error)
    return None


def _checkpoint_bytes(cfg: Config, model: torch.nn.Module) -> int:
    """The size of all checkpoints that a training keeps at once: weights, Adam's moments, EMA."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    average = sum(p.numel() for p in model.generator_ema.parameters())
    hook, iterations = cfg.default_hooks.checkpoint, int(cfg.train_cfg.max_iters)
    count = iterations // int(hook.interval) + 1
    if hook.max_keep_ckpts > 0:
        every = hook.get("keep_every") or iterations + 1
        count = min(count, hook.max_keep_ckpts + 1 + iterations // every)
    return 4 * (3 * trained + average) * count


def _space_problems(folder: Path, needed: int) -> Iterator[str]:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        yield (
            f"{folder}: the checkpoints take {needed / GIB:.0f} GiB and {free / GIB:.0f} are free; "
            "free space, or choose another --out"
        )

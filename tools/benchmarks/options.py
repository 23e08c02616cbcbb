"""What each measure and each option of training brings."""

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

from torch import Tensor

from benchmarks import Clock, Work, measure, within
from benchmarks.training import (
    NETWORKS,
    Subject,
    add_model_options,
    build_subject,
    headline,
    peak_of,
    step_of,
)
from ddgan import ops
from ddgan.engine.networks import compile_networks
from ddgan.errors import UserError
from ddgan.models.adversarial import AdversarialModel


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    add_model_options(parser)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="rows whose name contains one"
    )
    parser.add_argument("--r1", action="store_true", help="time the steps with R1")


@dataclass
class Change:
    """How one row of ``options`` differs from the baseline."""

    what: str
    # Keys of the config and of the command line.
    config: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    # A context in which the step runs.
    context: Callable[[AdversarialModel], AbstractContextManager] = lambda model: nullcontext()
    steps: int = 1


def both(key: str, value: Any) -> dict[str, Any]:
    """A setting of both networks."""
    return {key.format(name): value for name in NETWORKS}


def lerp_singly(averages: list[Tensor], current: list[Tensor], weight: float) -> None:
    """Move each tensor by an operation of its own."""
    for average, value in zip(averages, current, strict=True):
        average.lerp_(value, weight)


@contextmanager
def unfrozen(model: AdversarialModel) -> Iterator[None]:
    """Let the generator's step compute the discriminator's gradients as well, and drop them."""
    with mock.patch("ddgan.models.adversarial.frozen", return_value=nullcontext()):
        yield
    model.discriminator.zero_grad()


QUARTERS = 4
CHANGES = {
    "baseline": Change(""),
    "without compiled operators": Change(
        "plain PyTorch for all operators of ddgan.ops", context=lambda _: ops.backend("torch")
    ),
    "without fused Adam": Change(
        "optimizer.fused=False", config=both("optim_wrapper.{}.optimizer.fused", False)
    ),
    "without a multi-tensor average": Change(
        "one update of each of its tensors",
        context=lambda _: mock.patch("torch._foreach_lerp_", lerp_singly),
    ),
    "without freezing D": Change(
        "gradients of D's parameters in G's step as well", context=unfrozen
    ),
    "bf16": Change("--amp bf16", options={"amp": "bf16"}),
    "fp16": Change("--amp fp16", options={"amp": "fp16"}),
    "channels_last": Change("of both networks", options={"channels_last": True}),
    "bf16, channels_last": Change("both", options={"amp": "bf16", "channels_last": True}),
    "checkpoint_activations": Change(
        "of both networks", config=both("model.{}.checkpoint_activations", True)
    ),
    "accumulated": Change(
        f"{QUARTERS} batches of a quarter, one update",
        config=both("optim_wrapper.{}.accumulative_counts", QUARTERS),
        steps=QUARTERS,
    ),
    "compiled networks": Change("--compile", options={"compile": True}),
    "bf16, channels_last, compiled": Change(
        "all three", options={"amp": "bf16", "channels_last": True, "compile": True}
    ),
}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What each measure and each option of training brings: time and memory of a train step.

    The baseline is the library as it trains by default. Each row changes one thing: it replaces a
    measure that is always on by the plain way, or switches an option on.
    """
    clock = Clock(options.device, options.threads)
    options.batch_size = options.batch_size or (8 if options.device == "cpu" else 64)
    if options.batch_size % QUARTERS:
        raise UserError(f"--batch-size is {options.batch_size}; expected a multiple of 4")
    steps, record = {}, {}
    for name, change in CHANGES.items():
        wanted = name == "baseline" or any(text in name for text in options.only)
        left_out = name == "fp16" and options.device == "cpu"
        if wanted and not left_out and (options.compile or "compile" not in change.options):
            subject = changed_subject(options, change)
            record = record or headline(subject, clock)
            steps[name] = changed_step(subject, change)
    peaks = {name: peak_of(step, options.device) for name, step in steps.items()}
    times = measure(steps, clock, options.rounds)
    with_r1 = "with" if options.r1 else "without"
    print(f"\n| train step {with_r1} R1 | what | ms | ratio | peak, MiB |\n|---|---|---|---|---|")
    for name, ms in times.items():
        ratio, peak = ms / times["baseline"], peaks[name] / 2**20
        print(f"| {name} | {CHANGES[name].what} | {ms:.1f} | {ratio:.2f} | {peak:.0f} |")
    rows = [{"name": n, "milliseconds": ms, "peak_bytes": peaks[n]} for n, ms in times.items()]
    return record | {"rows": rows}


def changed_subject(options: argparse.Namespace, change: Change) -> Subject:
    """What one row measures."""
    options = copy.copy(options)
    options.cfg_options = {**options.cfg_options, **change.config}
    options.batch_size //= change.steps
    options.compile = False
    vars(options).update(change.options)
    return build_subject(options)


def changed_step(subject: Subject, change: Change) -> Work:
    """One update of both networks, in the way of one row."""
    if subject.options.compile:
        compile_networks(subject.model)
    step = step_of(subject, subject.options.r1)

    def update() -> None:
        for _ in range(change.steps):
            step()

    return within(partial(change.context, subject.model), update)

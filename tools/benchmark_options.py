"""What each measure and each option of training brings: time and memory of a train step.

The baseline is the library as it trains by default. Each row changes one thing: a measure that is
always on is replaced by the plain way, or an option is switched on. All rows run in one process,
in interleaved rounds, and the median round counts.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from pathlib import Path
from unittest import mock

import torch
from benchmark_ops import Clock, Variant, measure
from benchmark_subject import Subject, build_subject, headline, without_operators, write_record
from benchmark_train import BATCH_SIZES
from torch import nn

from ddgan.errors import UserError
from ddgan.utils.cli import OptionsAction, user_errors

NETWORKS = ("generator", "discriminator")
QUARTERS = 4
WITHOUT = {
    "without compiled operators": "plain PyTorch for all operators of ddgan.ops",
    "without fused Adam": "optimizer.fused=False",
    "without a multi-tensor average": "one update of each of its tensors",
    "without freezing D": "gradients of D's parameters in G's step as well",
}
WITH = {
    "bf16": "--amp bf16",
    "fp16": "--amp fp16",
    "channels_last": "channels_last of both networks",
    "bf16, channels_last": "both",
    "checkpoint_activations": "of both networks",
    "accumulated": f"{QUARTERS} batches of a quarter, one update",
    "compiled networks": "--compile",
    "bf16, channels_last, compiled": "all three",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--config", default="configs/ddgan_cifar10.py")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE")
    parser.add_argument("--width", type=int, help="base channels of G; default 48 on the CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch-size", type=int, help="a multiple of 4; default 8 on the CPU")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="TEXT", help="rows whose name contains one"
    )
    parser.add_argument(
        "--compile", action="store_true", help="rows of compiled networks as well: minutes more"
    )
    parser.add_argument("--r1", action="store_true", help="time the steps with R1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")


def run(options: argparse.Namespace) -> int:
    """Measure and print, as a table in Markdown."""
    options = argparse.Namespace(**vars(options), amp="off", channels_last=False)
    with user_errors():
        clock = Clock(options.device, options.threads)
        options.batch_size = options.batch_size or BATCH_SIZES[options.device]
        if options.batch_size % QUARTERS:
            raise UserError(f"batch-size is {options.batch_size}; expected a multiple of 4")
        steps, record = {}, None
        for name in chosen(options):
            subject = build_subject(changed(options, name), options.batch_size)
            record = record or headline(subject, clock)
            steps[name] = step_of(subject, name)
        peaks = {name: peak_of(step, options.device) for name, step in steps.items()}
        times = measure(steps, clock, options.rounds)
    record["rows"] = [
        {"name": name, "milliseconds": ms, "peak_bytes": peaks[name]} for name, ms in times.items()
    ]
    with_r1 = "with" if options.r1 else "without"
    print(f"\n| train step {with_r1} R1 | what | ms | ratio | peak, MiB |\n|---|---|---|---|---|")
    for name, ms in times.items():
        what = (WITHOUT | WITH).get(name, "")
        ratio = ms / times["baseline"]
        print(f"| {name} | {what} | {ms:.1f} | {ratio:.2f} | {peaks[name] / 2**20:.0f} |")
    write_record(options.json, record)
    return 0


def chosen(options: argparse.Namespace) -> list[str]:
    """Return the names of the rows to measure, the baseline first."""
    names = [*WITHOUT, *(n for n in WITH if options.compile or "compiled" not in n)]
    if options.device == "cpu":
        names.remove("fp16")
    wanted = [n for n in names if not options.only or any(text in n for text in options.only)]
    return ["baseline", *wanted]


def changed(options: argparse.Namespace, name: str) -> argparse.Namespace:
    """Return the options of the subject that a row measures."""
    options = copy.copy(options)
    keys: dict[str, object] = {}
    if name == "without fused Adam":
        keys = {f"optim_wrapper.{n}.optimizer.fused": False for n in NETWORKS}
    elif name == "checkpoint_activations":
        keys = {f"model.{n}.checkpoint_activations": True for n in NETWORKS}
    elif name == "accumulated":
        keys = {f"optim_wrapper.{n}.accumulative_counts": QUARTERS for n in NETWORKS}
        options.batch_size //= QUARTERS
    options.cfg_options = (options.cfg_options or {}) | keys
    options.amp = next((amp for amp in ("bf16", "fp16") if amp in name), "off")
    options.channels_last = "channels_last" in name
    options.compile = name in WITH and "compiled" in name
    return options


def step_of(subject: Subject, name: str) -> Variant:
    """Return what a row measures: one update of both networks."""
    model = subject.model
    # Where R1 is due at every iteration, no iteration is without.
    iteration = 0 if subject.options.r1 else 1
    if subject.options.compile:
        model.compile_networks()

    def step() -> None:
        model.iteration = iteration
        model.train_step(subject.batch, subject.optimizers)

    def repeatedly() -> None:
        for _ in range(QUARTERS):
            step()

    if name == "without compiled operators":
        return without_operators(step)
    if name == "without a multi-tensor average":
        return within(lambda: mock.patch("torch._foreach_lerp_", lerp_singly), step)
    if name == "without freezing D":
        return within(lambda: trained_in_vain(model.discriminator), step)
    return repeatedly if name == "accumulated" else step


def within(context: Callable, call: Variant) -> Variant:
    """Return ``call`` within a context."""

    def run_within() -> None:
        with context():
            call()

    return run_within


def lerp_singly(averages: list[torch.Tensor], current: list[torch.Tensor], weight: float) -> None:
    """Move each tensor by an operation of its own."""
    for average, value in zip(averages, current, strict=True):
        average.lerp_(value, weight)


@contextmanager
def trained_in_vain(discriminator: nn.Module) -> Iterator[None]:
    """Let the generator's step compute the discriminator's gradients, and drop them."""
    with mock.patch("ddgan.models.adversarial.frozen", return_value=nullcontext()):
        yield
    discriminator.zero_grad()


def peak_of(step: Variant, device: str) -> int:
    """Return the bytes of tensors that a step allocates at most, beyond those there before."""
    step()  # The first one allocates Adam's moments.
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(nbytes for _, nbytes in changes))

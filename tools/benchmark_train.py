"""DDGAN's train step against plain PyTorch, and against its convolutions and products alone.

All variants run in one process, in interleaved rounds, and the median round counts.
"""

import argparse
import copy
import multiprocessing

import torch
from benchmark_limit import limits_of
from benchmark_ops import Clock, Variant, measure
from benchmark_subject import (
    Subject,
    build_subject,
    headline,
    print_row,
    without_operators,
    write_record,
)
from benchmark_subject import add_arguments as add_shared_arguments

from ddgan.utils.cli import user_errors
from ddgan.utils.device import peak_memory

BATCH_SIZES = {"cpu": 8, "cuda": 64}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    add_shared_arguments(parser)
    parser.add_argument(
        "--checkpoint-activations", action="store_true", help="compute activations twice"
    )
    parser.add_argument(
        "--memory", action="store_true", help="measure the peak of memory instead of the time"
    )


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    with user_errors():
        subject = _subject(options)
        clock = Clock(options.device, options.threads)
        record = headline(subject, clock)
        if options.memory:
            names = ["ours", *(name for name in options.against if name != "limit")]
            record["peak_bytes"] = {name: _peak_in_new_process(options, name) for name in names}
            for name, peak in record["peak_bytes"].items():
                print(f"{name:10} {peak / 2**20:9.1f} MiB at most")
        else:
            record["rows"] = _rows(subject, clock)
    write_record(options.json, record)
    return 0


def _subject(options: argparse.Namespace) -> Subject:
    if options.checkpoint_activations:
        keys = [f"model.{name}.checkpoint_activations" for name in ("generator", "discriminator")]
        options = copy.copy(options)
        options.cfg_options = (options.cfg_options or {}) | dict.fromkeys(keys, True)
    return build_subject(options, BATCH_SIZES[options.device])


def _rows(subject: Subject, clock: Clock) -> dict[str, dict[str, float]]:
    """Measure the steps with R1 and without, and their mean as training mixes them."""
    interval = subject.model.r1_interval
    rows = {}
    for what, with_r1 in (("train step with R1", True), ("train step without R1", False)):
        if with_r1 or interval > 1:
            rows[what] = measure(_variants(subject, with_r1), clock, subject.options.rounds)
            print_row(what, rows[what])
    if interval > 1:
        first, other = rows.values()
        rows["train step"] = {
            name: (first[name] + (interval - 1) * other[name]) / interval for name in first
        }
        print_row(f"mean, R1 every {interval}th", rows["train step"])
    return rows


def _variants(subject: Subject, with_r1: bool) -> dict[str, Variant]:
    model, wanted = subject.model, subject.options.against
    # Where R1 is due at every iteration, no iteration is without.
    iteration = 0 if with_r1 else 1

    def ours() -> object:
        model.iteration = iteration
        return model.train_step(subject.batch, subject.optimizers)

    variants: dict[str, Variant] = {"ours": ours}
    if "plain" in wanted:
        trainer = subject.plain()
        x0 = subject.batch["x"].float() / 127.5 - 1
        latent_dim = model.generator.latent_dim

        def plainly() -> object:
            draws = [trainer.draws(x0, latent_dim) for _ in range(2)]
            return trainer.step(x0, *draws, with_r1)

        variants["plain"] = plainly
    if "reference" in wanted:
        variants["reference"] = without_operators(ours)
    if "limit" in wanted:
        variants |= limits_of(ours, subject.options.channels_last)
    if subject.options.compile:
        model.compile_networks()
    return variants


def _peak_in_new_process(options: argparse.Namespace, variant: str) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (options, variant))


def _peak(options: argparse.Namespace, variant: str) -> int:
    """Return the bytes that two steps need at most, beyond those of the imported libraries."""
    device = torch.device(options.device)
    before = 0 if device.type == "cuda" else peak_memory(device)
    subject = _subject(options)
    subject.options.against = [variant]
    step = _variants(subject, with_r1=True)[variant]
    step()
    step()
    return peak_memory(device) - before

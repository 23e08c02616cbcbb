"""DDGAN's sampling against plain PyTorch, and against its convolutions and products alone.

All variants run in one process, in interleaved rounds, and the median round counts.
"""

import argparse

import torch
from benchmark_limit import limits_of
from benchmark_ops import Clock, Variant, measure
from benchmark_subject import (
    Subject,
    build_subject,
    headline,
    plain,
    print_row,
    without_operators,
    write_record,
)
from benchmark_subject import add_arguments as add_shared_arguments

from ddgan.utils.cli import user_errors

BATCH_SIZES = {"cpu": 8, "cuda": 100}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    add_shared_arguments(parser)
    parser.add_argument("--cuda-graph", action="store_true", help="replay a recorded graph")


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    with user_errors():
        subject = build_subject(options, BATCH_SIZES[options.device])
        clock = Clock(options.device, options.threads)
        record = headline(subject, clock)
        variants = _variants(subject)
        if "plain" in variants:
            record["rms_difference"] = difference = rms_difference(subject)
            print(f"one evaluation differs from plain float32 by {difference:.2g} (RMS)")
        record["rows"] = {"sample": measure(variants, clock, options.rounds)}
        print_row(f"{len(subject.batch['x'])} samples", record["rows"]["sample"])
    write_record(options.json, record)
    return 0


def _variants(subject: Subject) -> dict[str, Variant]:
    model, wanted = subject.model.eval(), subject.options.against
    n, dtype = len(subject.batch["x"]), subject.optimizers["generator"].dtype

    def ours() -> object:
        with torch.autocast(subject.options.device, dtype, enabled=dtype is not None):
            return model.sample(n, batch_size=n, cuda_graph=graph)

    graph = subject.options.cuda_graph
    variants: dict[str, Variant] = {"ours": ours}
    if "plain" in wanted:
        trainer = subject.plain()
        x_T = torch.randn(n, *model.data_shape, device=model.device)
        latent_dim = model.generator.latent_dim
        variants["plain"] = lambda: plain.sample(trainer.average, trainer.process, x_T, latent_dim)
    if "reference" in wanted:
        variants["reference"] = without_operators(ours)
    if "limit" in wanted:
        variants |= limits_of(ours, subject.options.channels_last)
    if subject.options.compile:
        model.compile_networks()
    return variants


@torch.no_grad()
def rms_difference(subject: Subject) -> float:
    """Return how far an evaluation of G, in the precision asked for, is from plain float32."""
    model, device = subject.model, subject.options.device
    n, dtype = len(subject.batch["x"]), subject.optimizers["generator"].dtype
    x_t = torch.randn(n, *model.data_shape, device=device)
    z = torch.randn(n, model.generator.latent_dim, device=device)
    t = torch.arange(n, device=device) % model.diffusion.num_steps
    with torch.autocast(device, dtype, enabled=dtype is not None):
        ours = model.generator_ema(x_t, t, z)
    return float((ours - subject.plain().average(x_t, t, z)).square().mean().sqrt())

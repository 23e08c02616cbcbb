"""Precision, recall, density and coverage against the package prdc."""

import argparse
import contextlib
import importlib.util
import io
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ddgan.errors import UserError
from ddgan.evaluation import precision_recall_density_coverage
from ddgan.utils.cli import at_least, progress_bar

# Images vary in far fewer directions than a network has features.
INTRINSIC_DIM = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--num", type=int, default=10_000, help="samples of each kind")
    parser.add_argument("--dim", type=int, default=2048, help="features of a sample")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--rounds", type=at_least(1), default=1)
    parser.set_defaults(threads=len(os.sched_getaffinity(0)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Precision, recall, density and coverage against the package prdc: time and peak memory.

    Both get the same features, in turns, each in a process of its own, whose peak memory is that of
    the computation alone. prdc runs on the CPU. On a busy machine compare CPU time.
    """
    if importlib.util.find_spec("prdc") is None:
        raise UserError("prdc is not installed; pip install prdc")
    if options.num <= options.k:
        raise UserError(f"--num is {options.num}; expected more than --k, {options.k}")
    found: dict[str, list[dict[str, Any]]] = {"ddgan": [], "prdc": []}
    context = multiprocessing.get_context("spawn")
    with progress_bar("measuring", 2 * options.rounds) as advance:
        for seed in range(options.rounds):
            for name, results in found.items():
                with ProcessPoolExecutor(1, context) as process:
                    results.append(process.submit(measure, name, seed, options).result())
                advance(1)
    print(f"{options.num} x {options.num} x {options.dim}, k {options.k}, {options.rounds} rounds")
    medians = {}
    for name, results in found.items():
        wall, cpu = (median(one[key] for one in results) for key in ("seconds", "cpu"))
        memory = max(one["bytes"] for one in results) / 2**20
        print(f"{name:6} {wall:7.1f} s  {cpu:7.1f} CPU s  {memory:6.0f} MB beyond the features")
        values = results[0]["values"].items()
        print("       " + "  ".join(f"{key} {value:.6f}" for key, value in values))
        medians[name] = wall, cpu
    wall, cpu = (ours / theirs for ours, theirs in zip(*medians.values(), strict=True))
    print(f"ddgan takes {wall:.0%} of prdc's time, {cpu:.0%} of its CPU time")
    protocol = {key: getattr(options, key) for key in ("num", "dim", "k", "rounds")}
    return {"protocol": protocol, "results": found}


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The values, the seconds and the peak memory in bytes beyond the features."""
    torch.set_num_threads(options.threads)
    real, fake = features(options.num, options.dim, seed)
    if name == "ddgan":
        compute = precision_recall_density_coverage
        real, fake = real.to(options.device), fake.to(options.device)
    else:
        compute = importlib.import_module("prdc").compute_prdc
        real, fake = real.numpy(), fake.numpy()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    started, cpu_started = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):  # prdc prints
        values = compute(real, fake, options.k)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    values = {key: float(value) for key, value in values.items()}
    return {"values": values, "seconds": seconds, "cpu": cpu, "bytes": memory("VmHWM") - before}


def features(num: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 features (num, dim) of real and generated samples."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(INTRINSIC_DIM, dim, generator=generator)
    parts = []
    for spread in (1.0, 0.95):
        latent = spread * torch.randn(num, INTRINSIC_DIM, generator=generator)
        noise = torch.randn(num, dim, generator=generator)
        parts.append((latent @ basis).add_(noise).relu_())
    return parts[0], parts[1]


def memory(entry: str) -> int:
    """The bytes of this process that Linux states as ``entry``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(entry + ":")).split()[1]) * 1024

"""Precision, recall, density and coverage against the package prdc: time and peak memory.

Both get the same features, in turns, each in a process of its own, whose peak memory is that of the
computation alone. On a busy machine compare CPU time, and with ``--threads 1``.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmark_ops import device_name

from ddgan.errors import UserError
from ddgan.evaluation import precision_recall_density_coverage
from ddgan.utils.cli import progress_bar, user_errors

# Images vary in far fewer directions than a network has features.
INTRINSIC_DIM = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--num", type=int, default=10_000, help="samples of each kind")
    parser.add_argument("--dim", type=int, default=2048, help="features of a sample")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of ours alone")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the results to this file")


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    with user_errors():
        if importlib.util.find_spec("prdc") is None:
            raise UserError("prdc is not installed; pip install prdc")
        if options.num <= options.k or options.rounds < 1:
            raise UserError("expected --num above --k, and at least one round")
    results: dict[str, list[dict[str, Any]]] = {"ddgan": [], "prdc": []}
    context = multiprocessing.get_context("spawn")
    with progress_bar("measuring", 2 * options.rounds) as advance:
        for seed in range(options.rounds):
            for name, found in results.items():
                with ProcessPoolExecutor(1, context) as process:
                    found.append(process.submit(measure, name, seed, options).result())
                advance(1)
    report(results, options)
    return 0


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the values, the seconds and the peak memory in bytes beyond the features."""
    torch.set_num_threads(options.threads)
    device = options.device if name == "ddgan" else "cpu"
    real, fake = (part.to(device) for part in features(options.num, options.dim, seed))
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = memory("VmRSS")
    started, cpu_started = time.perf_counter(), time.process_time()
    if name == "ddgan":
        values = precision_recall_density_coverage(real, fake, options.k)
    else:
        from prdc import compute_prdc

        with contextlib.redirect_stdout(io.StringIO()):
            values = compute_prdc(real.numpy(), fake.numpy(), options.k)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else memory("VmHWM")
    values = {key: float(value) for key, value in values.items()}
    return {"values": values, "seconds": seconds, "cpu": cpu, "bytes": peak - before}


def features(num: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 features (num, dim) of real and generated samples."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(INTRINSIC_DIM, dim, generator=generator)
    parts = []
    for spread in (1.0, 0.95):
        latent = spread * torch.randn(num, INTRINSIC_DIM, generator=generator)
        noise = torch.randn(num, dim, generator=generator)
        parts.append((latent @ basis).add_(noise).relu_())
    return parts[0], parts[1]


def memory(entry: str) -> int:
    """Return the bytes of this process that Linux states as ``entry``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(entry + ":")).split()[1]) * 1024


def report(results: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Print the comparison, and write it where asked for."""
    print(
        f"{device_name(options.device)}, PyTorch {torch.__version__}, {options.threads} thread(s), "
        f"{options.num} x {options.num} x {options.dim}, k = {options.k}, "
        f"median of {options.rounds}"
    )
    middle = {
        name: {key: median(one[key] for one in found) for key in ("seconds", "cpu")}
        for name, found in results.items()
    }
    for name, found in results.items():
        memory = max(one["bytes"] for one in found) / 2**20
        values = "  ".join(f"{key} {value:.6f}" for key, value in found[0]["values"].items())
        wall, cpu = middle[name]["seconds"], middle[name]["cpu"]
        print(f"{name:6} {wall:7.1f} s  {cpu:7.1f} CPU s  {memory:6.0f} MB beyond the features")
        print(f"       {values}")
    wall, cpu = (middle["ddgan"][key] / middle["prdc"][key] for key in ("seconds", "cpu"))
    print(f"ddgan takes {wall:.0%} of prdc's time, {cpu:.0%} of its CPU time")
    if options.json:
        keys = ("num", "dim", "k", "threads", "rounds", "device")
        protocol = {key: getattr(options, key) for key in keys} | {"torch": torch.__version__}
        record = {"protocol": protocol, "results": results}
        options.json.write_text(json.dumps(record, indent=1, default=str) + "\n")

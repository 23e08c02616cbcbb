"""What other programs on the machine cost, under each way in which threads wait."""

import argparse
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddgan.engine import load_config

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "default": {},
    "GOMP_SPINCOUNT=300": {"GOMP_SPINCOUNT": "300"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
# What torch's threads do if nobody says: a user's choice keeps the tools from making their own.
TORCH_DEFAULT = {"GOMP_SPINCOUNT": "300000"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument(
        "--configs",
        nargs="+",
        default=["configs/ddgan_stackeddigits.py", "configs/ddgan_cifar10.py"],
        help="a small and a large network (CIFAR-10's: 3/8 of its width, batches of 8)",
    )
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--competitors", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.set_defaults(threads=len(os.sched_getaffinity(0)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Training and sampling while other programs compute, under settings of OpenMP's threads.

    Needs an idle machine: it starts the competitors, which keep a core busy each, itself.
    """
    print("milliseconds of wall time, medians; a column for each number of competitors")
    rows = []
    for config in options.configs:
        for work in ("train", "sample"):
            print(f"{work}, {config}: {options.competitors}")
            for setting in options.settings:
                times = []
                for count in options.competitors:
                    with competitors(count):
                        times.append(measure(work, config, setting, options))
                rows.append({"work": work, "config": config, "setting": setting, "ms": times})
                print(f"  {setting:26}" + "".join(f"{ms:10.1f}" for ms in times), flush=True)
    return {"competitors": options.competitors, "rows": rows}


@contextlib.contextmanager
def competitors(count: int) -> Iterator[None]:
    """Keep ``count`` cores busy."""
    processes = [multiprocessing.Process(target=compute, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def compute() -> None:
    """Count without end."""
    while True:
        pass


def measure(work: str, config: str, setting: str, options: argparse.Namespace) -> float:
    """Milliseconds of a train step, or of a batch of samples, in a process of its own."""
    known = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"}
    environment = {key: value for key, value in os.environ.items() if key not in known}
    environment |= SETTINGS[setting] or TORCH_DEFAULT
    threads = environment.get("OMP_NUM_THREADS", options.threads)
    command = [sys.executable, ROOT / "tools" / "benchmark.py", work, "--config", config]
    command += ["--threads", threads, "--rounds", options.rounds]
    cfg = load_config(ROOT / config)
    if "base_channels" not in cfg.model.generator:  # others are narrowed, for batches of 8
        command += ["--batch-size", cfg.train_dataloader.batch_size]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        command += ["--json", path]
        subprocess.run([*map(str, command)], env=environment, check=True, capture_output=True)
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows["sample" if work == "sample" else "train step"]["ours"]

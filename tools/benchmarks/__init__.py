"""What all benchmarks share: the clock, and medians over interleaved rounds."""

import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch

Work = Callable[[], object]


class Clock:
    """Times repeated calls, in seconds a call.

    On one CPU thread that is the CPU time of the process, which other programs disturb less; on
    several threads wall time; on a GPU the time between two events of the stream.
    """

    def __init__(self, device: str, threads: int) -> None:
        self.cuda = device == "cuda"
        self.now = time.perf_counter
        if self.cuda:
            self.now = self._synchronised
        elif threads == 1:
            self.now = time.process_time

    @staticmethod
    def _synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    def __call__(self, work: Work, repeats: int) -> float:
        """Seconds of one call, averaged over ``repeats`` calls in a row."""
        if self.cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(repeats):
                work()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3 / repeats
        start = self.now()
        for _ in range(repeats):
            work()
        return (self.now() - start) / repeats


def measure(variants: dict[str, Work], clock: Clock, rounds: int) -> dict[str, float]:
    """Median milliseconds of each variant; rounds are interleaved, so noise reaches all alike."""
    repeats = {}
    for name, work in variants.items():
        work()  # compiles and allocates
        repeats[name] = max(1, min(50, int(0.02 / max(clock(work, 1), 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, work in variants.items():
            times[name].append(clock(work, repeats[name]))
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def within(context: Callable[[], AbstractContextManager], work: Work) -> Work:
    """``work`` within a new context at each call."""

    def run() -> object:
        with context():
            return work()

    return run


def device_name(device: str) -> str:
    """The name of the GPU, or of the CPU as the system reports it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

"""The set-up of a process that computes on a CPU."""

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from ddgan.errors import UserError
from ddgan.utils import device
from ddgan.utils.device import (
    activation_bytes,
    fitting_batch_size,
    memory_errors_named,
)

# Tensors above the largest threshold that glibc reaches by itself, so that each is fetched again.
PROGRAM = """
import resource, sys, torch
from ddgan.utils.device import set_up_cpu

if sys.argv[1] == "set up":
    set_up_cpu()

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(9 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(20)  # what is small finds its place next to the large
print(faults(20), float(torch.full((1,), 1e-39) * 0.5))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again_and_denormals_are_zero():
    def run(how: str) -> tuple[int, float]:
        command = [sys.executable, "-c", PROGRAM, how]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        faults, product = output.split()
        return int(faults), float(product)

    faults, product = run("set up")
    fresh, denormal = run("as it is")
    assert faults < 0.2 * fresh
    assert fresh >= 20 * 36 / 2  # at least one for each huge page of 2 MB
    assert product == 0 < denormal


def test_the_memory_of_a_network_is_counted_without_computing():
    assert activation_bytes(nn.Sequential(nn.Linear(3, 5), nn.ReLU()), torch.ones(2, 3)) == 80


LIMITED = """
import resource, torch
from ddgan.utils.device import available_memory
before = available_memory(torch.device("cpu"))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)
assert 0 < available_memory(torch.device("cpu")) <= 2**28, before
"""


def test_memory_is_limited_by_ulimit():
    subprocess.run([sys.executable, "-c", LIMITED], check=True)


@pytest.mark.parametrize(
    ("line", "limit", "used"),
    [
        ("0::/a/b", "a/memory.max", "a/memory.current"),
        ("0::/a/b", "memory.max", "memory.current"),
        ("5:memory:/a", "memory/a/memory.limit_in_bytes", "memory/a/memory.usage_in_bytes"),
    ],
)
def test_memory_is_limited_by_control_groups(tmp_path, monkeypatch, line, limit, used):
    for name, text in ((limit, "1000\n"), (used, "300\n"), ("a/b/memory.max", "max\n")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    read = device._read
    monkeypatch.setattr(
        device, "_read", lambda path: f"{line}\n" if path == "/proc/self/cgroup" else read(path)
    )
    assert [*device._cgroup_memory(str(tmp_path))] == [700]
    assert fitting_batch_size(2**62, torch.device("cpu")) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to"),
    ],
)
def test_a_batch_that_is_too_large_is_named(error):
    message = r"batch of 64 .*lower --batch-size"
    with pytest.raises(UserError, match=message), memory_errors_named(64, "--batch-size"):
        raise error
    with pytest.raises(RuntimeError, match="shape"), memory_errors_named(64, "--batch-size"):
        raise RuntimeError("shape mismatch")

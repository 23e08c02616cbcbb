"""The set-up of a process that computes on a CPU."""

import platform
import subprocess
import sys

import pytest

# Tensors above the largest threshold that glibc reaches by itself, so that each is fetched anew.
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

faults(20)  # what is small finds its place beside the large
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

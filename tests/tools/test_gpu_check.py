"""The check of a GPU: without one, and its book-keeping with a stand-in for Python."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# Notes how it is called; fails in one step, hangs in another, and has a GPU of architecture 9.0.
STAND_IN = """#!/bin/sh
echo "$TORCH_CUDA_ARCH_LIST $*" >> "$CALLS"
case "$*" in
    -c*get_device_capability*) echo 9.0 ;;
    *"benchmark.py train --against"*"--amp"*) echo the cause; exit 3 ;;
    *"benchmark.py options"*) [ -z "$HANG" ] || exec tail -f /dev/null ;;
esac
"""


@pytest.fixture
def check(tmp_path, tool_environment):
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(STAND_IN)
    python.chmod(0o755)

    def run(**environment):
        # A caller's own choice of architectures would be kept.
        inherited = {k: v for k, v in tool_environment.items() if k != "TORCH_CUDA_ARCH_LIST"}
        done = subprocess.run(
            ["bash", ROOT / "tools" / "gpu_check.sh", tmp_path / "out"],
            env=inherited | {"PYTHON": str(python), "CALLS": str(calls)} | environment,
            capture_output=True,
            text=True,
        )
        rows = (tmp_path / "out" / "summary.txt").read_text().splitlines()
        results = {row.split()[0]: " ".join(row.split()[1:]) for row in rows}
        return done, results, calls.read_text()

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, tool_environment):
    done = subprocess.run(
        ["bash", ROOT / "tools" / "gpu_check.sh", tmp_path / "out"],
        env=tool_environment | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "PyTorch finds no GPU" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_step_that_fails_stops_no_other(check, tmp_path):
    done, results, calls = check()
    assert done.returncode == 1
    assert results.pop("train").startswith("failed with 3")
    assert "the cause" in (tmp_path / "out" / "train.log").read_text()
    left_out = {name for name, result in results.items() if result.startswith("left out")}
    assert left_out <= {"memcheck", "racecheck", "synccheck", "stackedmnist"}
    assert all(results[name].startswith("passed") for name in results.keys() - left_out)
    assert {"build", "device", "tests", "ops", "sample", "options", "memory_256", "runner"} <= (
        results.keys()
    )
    # Built for the GPU that is there, measured on it, graphs and the short run included.
    assert "9.0 setup.py build_ext --inplace" in calls
    assert "--cuda-graph --device cuda --json" in calls
    assert "--metric modes --num 2560 --device cuda" in calls
    assert f"Logs and numbers are in {tmp_path}" in done.stdout


def test_time_ends_a_step_and_the_rest(check):
    done, results, _ = check(DEVICE="cpu", STEPS="options runner", HANG="1", SECONDS_IN_ALL="1")
    assert done.returncode == 1
    assert results["options"].startswith("time is up")
    assert results["runner"].startswith("not run")
    assert len(results) == 2


def test_a_rehearsal_passes(check):
    done, results, calls = check(DEVICE="cpu", STEPS="device sample gaussians25")
    assert done.returncode == 0
    assert [*results] == ["device", "sample", "gaussians25"]
    assert "cuda" not in calls

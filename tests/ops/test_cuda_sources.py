"""The CUDA kernels without a GPU: nvcc compiles them, and an emulation runs them on the CPU."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
INCLUDES = [f"-I{CSRC}", f"-I{ROOT / 'tests/ops'}"]
sys.path.insert(0, str(CSRC))
import build_ops  # noqa: E402

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
needs_linux = pytest.mark.skipif(
    platform.system() != "Linux", reason="the emulation's fibers use Linux contexts"
)


def _emulated(tmp: Path, source: Path = Path(__file__).parent / "emulation/emulated.cpp") -> Path:
    target = tmp / "libemulated.so"
    flags = ["-std=c++17", "-O0", "-g1", "-fPIC", "-shared", *SANITIZERS, "-Wno-unknown-pragmas"]
    flags += INCLUDES
    subprocess.run(["g++", *flags, str(source), "-o", str(target)], check=True)
    return target


def _run_sanitized(*command: str) -> subprocess.CompletedProcess[str]:
    runtimes = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    settings = "detect_leaks=0:detect_stack_use_after_return=0"
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": settings,
        "PYTHONPATH": str(ROOT),
        "DDGAN_OPS": "torch",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@needs_gxx
@needs_linux
def test_emulated_kernels_equal_the_reference_under_sanitizers(tmp_path: Path) -> None:
    library = _emulated(tmp_path)
    script = Path(__file__).with_name("emulated_cases.py")
    result = _run_sanitized(sys.executable, str(script), str(library))
    report = "\n".join(line for line in result.stdout.splitlines() if not line.startswith("ok"))
    assert result.returncode == 0, report + result.stderr[-3000:]
    assert "428 comparisons, 0 failures" in report


FAULTS = {
    "overflow": "out of bounds",
    "overflow through a pointer": "heap-buffer-overflow",
    "partial barrier": "barrier that not all threads",
    "missing barrier": "wrong result",
    "missing barrier after the first thread": "wrong result",
    "shared memory of another block": "wrong result",
    "one block too many": "blocks wait for each other for ever",
    "missing wait": "wrong result",
    "missing barrier before the arrival": "wrong result",
    "arrival before the values": "wrong result",
    "grid too large": "more blocks than can be resident",
    "not together": "blocks wait for each other for ever",
}


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("faults") / "faults"
    source = Path(__file__).with_name("emulated_faults.cpp")
    flags = ["-std=c++17", "-O0", "-g1", *SANITIZERS, "-Wno-unknown-pragmas", *INCLUDES]
    subprocess.run(["g++", *flags, str(source), "-o", str(program)], check=True)
    return program


@needs_gxx
@needs_linux
@pytest.mark.parametrize("fault", FAULTS)
def test_the_emulation_notices_faults(faults: Path, fault: str) -> None:
    command = [str(faults), fault]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert FAULTS[fault] in result.stderr


@needs_gxx
@needs_linux
@pytest.mark.parametrize("case", ["correct block", "correct grid"])
def test_the_emulation_runs_what_is_correct(faults: Path, case: str) -> None:
    result = subprocess.run([str(faults), case], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def _nvcc() -> Path:
    nvcc = build_ops.find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    return nvcc


def test_architectures_are_cut_to_what_nvcc_knows(monkeypatch) -> None:
    nvcc = _nvcc()
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    chosen = build_ops.choose_architectures(nvcc)
    assert chosen[-1].endswith("+PTX")
    assert {a.removesuffix("+PTX") for a in chosen} <= set(build_ops.KNOWN_ARCHITECTURES)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    assert build_ops.gencode(build_ops.choose_architectures(nvcc)) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "3.5")
    with pytest.raises(build_ops.BuildError, match="compiles for none"):
        build_ops.choose_architectures(nvcc)


@pytest.mark.parametrize("source", build_ops.CUDA_SOURCES)
def test_nvcc_compiles_the_kernels(tmp_path: Path, source: str) -> None:
    """The PTX of one architecture in a quick run; DDGAN_TEST_ARCHITECTURES=all assembles all."""
    nvcc = _nvcc()
    flags = ["-gencode=arch=compute_80,code=compute_80"]
    if os.environ.get("DDGAN_TEST_ARCHITECTURES") == "all":
        flags = build_ops.gencode(build_ops.choose_architectures(nvcc))
    command = [str(nvcc), "-std=c++17", "-O3", "--threads=0", "-Werror=all-warnings", *flags]
    result = subprocess.run(
        [*command, "-c", str(CSRC / source), "-o", str(tmp_path / "kernels.o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr

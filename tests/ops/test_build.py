import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "csrc"))
import build_ops  # noqa: E402


def test_no_compiler_names_the_way_out(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build_ops.BuildError, match=r"no-such-compiler.*set CXX"):
        build_ops.find_compiler()


def test_without_a_compiler_the_build_succeeds_and_says_so(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "-b", str(tmp_path), "-t", str(tmp_path)],
        cwd=ROOT,
        env={"CXX": "no-such-compiler", "PATH": "/usr/bin:/bin", "DDGAN_CUDA": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("operators were not built") == 1
    assert not list(tmp_path.rglob("*.so"))


def test_forcing_cuda_without_a_toolkit_is_an_error(monkeypatch) -> None:
    monkeypatch.setenv("DDGAN_CUDA", "1")
    with pytest.raises(build_ops.BuildError, match=r"no nvcc.*CUDA_HOME"):
        build_ops.wants_cuda(None)
    monkeypatch.setenv("DDGAN_CUDA", "yes")
    with pytest.raises(build_ops.BuildError, match="expected 0, 1 or nothing"):
        build_ops.wants_cuda(None)
    monkeypatch.setenv("DDGAN_CUDA", "0")
    assert not build_ops.wants_cuda(Path("nvcc"))


@pytest.mark.parametrize(
    ("release", "used", "message"),
    [
        ("release 10.2", None, "too old"),
        ("release 12.8", "13.0", "PyTorch uses CUDA 13.0"),
        ("nothing", None, "no release number"),
    ],
)
def test_a_toolkit_that_does_not_fit(monkeypatch, release, used, message) -> None:
    monkeypatch.setattr(build_ops, "run", lambda command: release)
    monkeypatch.setattr("torch.version.cuda", used)
    with pytest.raises(build_ops.BuildError, match=message):
        build_ops.toolkit_version(Path("nvcc"))


def test_an_old_pytorch_is_named(monkeypatch) -> None:
    monkeypatch.setattr("torch.__version__", "2.9.1")
    with pytest.raises(build_ops.BuildError, match=r"2\.9\.1 has no stable ABI"):
        build_ops.find_torch()


def test_ninja_file_lists_every_step(tmp_path: Path) -> None:
    plan = build_ops.Plan(["g++"], Path("/torch"))
    commands = build_ops.compile_commands(plan, tmp_path)
    target = tmp_path / "_ops.abi3.so"
    text = build_ops.ninja_file(
        commands, build_ops.link_command(plan, list(commands), target), target
    )
    assert text.count("\nbuild ") == len(commands) + 1
    assert all(path.name in text for path in commands)


def test_missing_ninja_is_said_and_the_files_are_compiled(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    ran = []
    monkeypatch.setattr(build_ops, "run", ran.append)
    build_ops.run_all({tmp_path / "a.o": ["compile"]}, ["link"], tmp_path / "a.so", tmp_path)
    assert ran == [["compile"], ["link"]]
    assert "ninja is missing" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["lib64", "lib", "targets/x86_64-linux/lib"])
def test_toolkits_of_the_system_of_pip_and_of_conda_link(tmp_path: Path, folder: str) -> None:
    nvcc = tmp_path / "bin/nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\necho '#$ TOP={tmp_path}' >&2\n")
    nvcc.chmod(0o755)
    with pytest.raises(build_ops.BuildError, match=r"no libcudart_static\.a in .*CUDA_HOME"):
        build_ops.runtime_folder(nvcc)
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "libcudart_static.a").touch()
    plan = build_ops.Plan(["g++"], Path("/torch"), nvcc, ["9.0"])
    assert f"-L{tmp_path / folder}" in build_ops.link_command(plan, [], tmp_path / "ops.so")


@pytest.mark.parametrize(
    ("toolkit", "wish", "chosen"),
    [
        ((70, 75, 80, 86, 89, 90), "7.0 7.5 8.0 9.0+PTX", ["7.0", "7.5", "8.0", "9.0+PTX"]),
        ((75, 80, 86, 89, 90, 100, 120), "7.0 7.5 8.0 9.0+PTX", ["7.5", "8.0", "9.0+PTX"]),
        ((70, 75, 80, 90), "", ["7.0", "7.5", "8.0", "9.0+PTX"]),
    ],
)
def test_architectures_of_a_toolkit(monkeypatch, capsys, toolkit, wish, chosen) -> None:
    shown = "\n".join(f"compute_{number}" for number in toolkit)
    monkeypatch.setattr(build_ops, "run", lambda command: shown)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wish)
    assert build_ops.choose_architectures(Path("nvcc")) == chosen
    assert ("7.0: left out" in capsys.readouterr().out) == (70 not in toolkit)


def test_the_environment_is_built_for_all_gpus_from_v100_on() -> None:
    script = (ROOT / "tools/setup_env.sh").read_text()
    assert "${TORCH_CUDA_ARCH_LIST:-7.0 7.5 8.0 9.0+PTX}" in script


def test_the_lock_of_v100_differs_in_pytorch_alone() -> None:
    usual, v100 = (
        {line for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#"}
        for name in ("requirements.lock", "requirements-v100.lock")
    )
    assert v100 - usual == {"torch==2.10.0"}
    assert {line.split("==")[0] for line in usual - v100} == {"torch"}

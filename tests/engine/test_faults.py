"""What clusters do to a run: each fault is injected into real processes."""

import os
import random
import re
import signal
from pathlib import Path

import pytest
import torch
from run_checks import assert_one_message, assert_same_training, checkpoints, faulty, same_weights

from ddgan.engine import read_checkpoint

ROOT = Path(__file__).parents[2]
POINTS = ROOT / "tests" / "configs" / "points.py"


def litter(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_fifty_kills_change_nothing(tmp_path, start_training):
    """Each ends the process at a random moment of starting, training, saving and deleting.

    The kernel ends it by SIGPROF, which it does not handle: it runs no more code than on SIGKILL.
    The moment is one of computing time, so that the load of the machine does not matter.
    """
    last = 400  # beyond what fifty attempts reach
    options = [f"train_cfg.max_iters={last}", "default_hooks.logger.interval=100"]
    options += ["default_hooks.checkpoint.max_keep_ckpts=2"]
    arguments = (faulty(tmp_path), "--cfg-options", *options)
    seconds = {}
    for name, more in {"straight": [], "start": ["train_cfg.max_iters=1"]}.items():
        late = f"default_hooks.checkpoint.interval={last}"
        process = start_training(*arguments, f"work_dir={tmp_path / name}", late, *more)
        status, output = process.wait()
        assert status == 0, output
        seconds[name] = process.cpu_seconds
    rate = (seconds["straight"] - seconds["start"]) / (last - 1)
    folder = tmp_path / "killed"
    arguments += (f"work_dir={folder}", "default_hooks.checkpoint.interval=1", "resume=True")
    generator, reached, start = random.Random(0), [0], seconds["start"]
    for _ in range(50):
        # Around the first iteration: before any, or after a few.
        moment = max(start + generator.uniform(-2, 6) * rate, 0.01)
        status, output = start_training(*arguments, cpu_seconds=moment).wait()
        assert status == -signal.SIGPROF, output
        reached.append(max((int(name[5:-4]) for name in checkpoints(folder)), default=0))
        # What starting costs is learned on the way, so that an attempt gains about two iterations.
        start += (2 - (reached[-1] - reached[-2])) * rate / 2
    assert len(set(reached)) > 5
    assert reached == sorted(reached)
    assert reached[-1] < last
    status, output = start_training(*arguments).wait()
    assert status == 0, output
    assert "Passing over" not in output
    assert_same_training(folder, tmp_path / "straight", f"iter_{last}.pth")
    assert checkpoints(folder) == [f"iter_{last - 1}.pth", f"iter_{last}.pth"]
    assert litter(folder) == []


def test_a_full_disk_ends_with_one_message(tmp_path, start_training, trained):
    """No file may grow beyond a limit, which a checkpoint exceeds."""
    folder = tmp_path / "run"
    size = (trained("points") / "iter_3.pth").stat().st_size
    options = ("--work-dir", folder, "--cfg-options", "default_hooks.checkpoint.interval=1")
    stopped = faulty(tmp_path, SignalAt={"number": "SIGTERM", "at": 2})
    assert start_training(stopped, *options).wait()[0] == 75
    before = (folder / "iter_2.pth").read_bytes()
    arguments = (POINTS, *options, "resume=True")
    result = start_training(*arguments, limits={"RLIMIT_FSIZE": int(0.9 * size)}).wait()
    assert_one_message(result, r"iter_3\.pth could not be written \(.*free space.*untouched")
    assert checkpoints(folder) == ["iter_1.pth", "iter_2.pth"]
    assert (folder / "iter_2.pth").read_bytes() == before
    assert litter(folder) == []
    assert start_training(*arguments).wait()[0] == 0
    assert same_weights(folder, trained("points"), "iter_6.pth")


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path, start_training):
    folder = tmp_path / "run"
    options = ["default_hooks.logger.interval=1", "train_cfg.max_iters=200"]
    options += ["default_hooks.checkpoint.interval=1000"]
    arguments = (POINTS, "--work-dir", folder, "--cfg-options", *options)
    status, output = start_training(*arguments, limits={"RLIMIT_FSIZE": 40_000}).wait()
    # The output of the process is a file that is limited as well.
    assert status == 0, output
    assert checkpoints(folder) == ["iter_200.pth"]


def test_two_runs_in_one_folder(tmp_path, start_training):
    folder = tmp_path / "run"
    arguments = ("--work-dir", folder, "--resume")
    paused = faulty(tmp_path, SignalAt={"number": "SIGSTOP", "at": 2})
    first = start_training(paused, *arguments, "--cfg-options", "default_hooks.logger.interval=1")
    first.wait_for("iter 1/6")
    result = start_training(POINTS, *arguments).wait()
    assert_one_message(result, rf"in use by another process \(process {first.pid} on .*folder")
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait()[0] == -signal.SIGKILL
    # The file is still there; what counts is who holds it.
    assert str(first.pid) in (folder / "run.lock").read_text()
    status, output = start_training(POINTS, *arguments).wait()
    assert status == 0, output


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_updates_that_are_not_finite_are_skipped(tmp_path, start_training, fused, value):
    """A skipped update leaves weights, moments and step counts as they were."""
    folder = tmp_path / "run"
    options = ["default_hooks.checkpoint.interval=1", "default_hooks.checkpoint.max_keep_ckpts=-1"]
    options += [f"optim_wrapper.{n}.optimizer.fused={fused}" for n in NETWORKS]
    config = faulty(tmp_path, PoisonGradients={"at": [3, 4], "value": value})
    status, output = start_training(config, "--work-dir", folder, "--cfg-options", *options).wait()
    assert status == 0, output
    counts = re.findall(r"(\d) updates of the discriminator were skipped.*\((\d) so far\)", output)
    assert counts == [("2", "2")]
    assert "of the generator were skipped" not in output
    # While updates are skipped, nothing is saved: what led to it may be in the weights.
    assert checkpoints(folder) == [f"iter_{i}.pth" for i in (1, 2, 5, 6)]
    end = read_checkpoint(folder / "iter_6.pth")
    assert all(v.isfinite().all() for v in end["state_dict"].values() if torch.is_tensor(v))
    steps = {n: end["optimizer"][n]["state"][0]["step"].item() for n in NETWORKS}
    assert steps == {"generator": 6, "discriminator": 4}


NETWORKS = ("generator", "discriminator")


def test_too_many_skipped_updates_stop_the_run(tmp_path, start_training):
    folder = tmp_path / "run"
    options = ["train_cfg.max_iters=30", "default_hooks.logger.max_skipped=5"]
    poison = {"at": [*range(5, 31)], "network": "generator"}
    config = faulty(tmp_path, PoisonGradients=poison)
    result = start_training(config, "--work-dir", folder, "--cfg-options", *options).wait()
    assert_one_message(
        result,
        "6 updates of the generator in a row had a loss or a gradient that is not finite",
        r"at iteration 10; the last good checkpoint is .*iter_3\.pth",
    )
    assert checkpoints(folder) == ["iter_3.pth"]


def test_dead_readers_are_replaced(tmp_path, start_training, trained):
    folder = tmp_path / "run"
    config = faulty(tmp_path, KillWorker={"at": [1]})
    status, output = start_training(
        config, "--work-dir", folder, "--cfg-options", "train_dataloader.num_workers=2"
    ).wait()
    assert status == 0, output
    assert output.count("Reading goes on with new workers") == 1
    assert same_weights(folder, trained("points"), "iter_6.pth")


def test_readers_that_keep_dying_end_the_run(tmp_path, start_training):
    config = faulty(tmp_path, KillWorker={"at": [*range(1, 30)]})
    options = ["train_dataloader.num_workers=1", "train_cfg.max_iters=30"]
    arguments = (config, "--work-dir", tmp_path / "run", "--cfg-options", *options)
    result = start_training(*arguments).wait()
    assert_one_message(result, "processes that read data died 4 times", "num_workers")


def test_data_that_stay_away_end_the_run_with_a_checkpoint(tmp_path, start_training, trained):
    folder = tmp_path / "run"
    late = ("--work-dir", folder, "--cfg-options", "default_hooks.checkpoint.interval=1000")
    result = start_training(faulty(tmp_path, LoseData={"at": 5}), *late).wait()
    assert_one_message(result, "the storage is away")
    assert checkpoints(folder) == ["iter_4.pth"]
    status, output = start_training(POINTS, *late, "resume=True").wait()
    assert status == 0, output
    assert same_weights(folder, trained("points"), "iter_6.pth")


def test_data_that_another_process_cannot_read_end_the_run_with_a_checkpoint(tmp_path, start_ranks):
    """The main process, which saves, can read its own."""
    folder = tmp_path / "run"
    late = ("--work-dir", folder, "--cfg-options", "default_hooks.checkpoint.interval=1000")
    config = faulty(tmp_path, LoseData={"at": 5, "rank": 1})
    first, second = [process.wait() for process in start_ranks(2, config, *late)]
    assert_one_message(second, "the storage is away")
    assert_one_message(first, "another process could not read its data after iteration 4", "resume")
    assert checkpoints(folder) == ["iter_4.pth"]


def test_folders_that_cannot_be_written_are_found_at_the_start(tmp_path, start_training):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "samples").touch()
    config = faulty(tmp_path, SampleImages={"interval": 3, "num": 4})
    result = start_training(config, "--work-dir", folder, "--dry-run").wait()
    assert_one_message(result, r"run/samples cannot be written")
    assert checkpoints(folder) == []
    status, output = start_training(config, "--work-dir", folder).wait()
    assert status == 0, output
    warning = output.index("run/samples cannot be written")
    assert warning < output.index("iter 2/6")
    assert "iter_6.pth" in checkpoints(folder)
    result = start_training(config, "--work-dir", folder / "samples" / "run", "--dry-run").wait()
    assert_one_message(result, r"samples/run cannot be written")
    assert not (tmp_path / "new").exists()
    status, output = start_training(config, "--work-dir", tmp_path / "new", "--dry-run").wait()
    assert status == 0, output
    assert not (tmp_path / "new").exists()


def test_reports_that_fail_cost_nothing(tmp_path, start_training, trained):
    """Samples cannot be written; the checkpoint of the same iteration is."""
    folder = tmp_path / "run"
    config = faulty(tmp_path, LoseFolder={}, SampleImages={"interval": 3, "num": 4})
    status, output = start_training(config, "--work-dir", folder).wait()
    assert status == 0, output
    for done in (3, 6):
        assert f"Drawing samples failed at iteration {done}, and training goes on" in output
    assert same_weights(folder, trained("points"), "iter_6.pth")


@pytest.mark.parametrize(("name", "reason"), [("SIGKILL", "onnection"), ("SIGSTOP", "imed out")])
def test_a_process_that_dies_or_hangs_stops_the_others(tmp_path, start_ranks, name, reason):
    folder = tmp_path / "run"
    config = faulty(tmp_path, SignalAt={"number": name, "at": 5, "rank": 1})
    options = ("--cfg-options", "env_cfg.dist_cfg.timeout=5")
    first, second = start_ranks(2, config, "--work-dir", folder, *options)
    result = first.wait()
    assert_one_message(result, "process 0 has lost another process", "--resume", reason)
    os.kill(second.pid, signal.SIGKILL)
    assert second.wait()[0] == -signal.SIGKILL
    assert checkpoints(folder) == ["iter_3.pth"]
    read_checkpoint(folder / "iter_3.pth")

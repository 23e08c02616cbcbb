import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from run_checks import assert_same_training

from ddgan.engine import read_checkpoint
from ddgan.engine.checkpoint import LAST_CHECKPOINT
from ddgan.errors import CheckpointError, ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "tests" / "configs"
LAST = "iter_14.pth"


def copy_run(source, target, *names):
    target.mkdir()
    for name in names:
        shutil.copy(source / name, target)
    return target


@pytest.fixture(scope="module")
def reference(trained):
    return trained("images")


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.001)


def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path, start_tool, train, reference):
    folder = tmp_path / "run"
    config = CONFIGS / "images.py"
    command = [sys.executable, ROOT / "tools" / "train.py", config, "--work-dir", folder]
    process = start_tool([*command, "--resume"], tmp_path)
    try:
        wait_for(folder / "iter_5.pth", process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
    output = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL
    assert "training starts at the beginning" in output
    assert not (folder / LAST).exists()

    train("images", folder, resume="auto")
    assert_same_training(folder, reference, LAST)
    for image in ("iter_7.png", "iter_14.png"):
        written = (folder / "samples" / image).read_bytes()
        assert written == (reference / "samples" / image).read_bytes()


def test_resuming_from_a_named_checkpoint(tmp_path, train, reference):
    train("images", tmp_path / "new", resume=reference / "iter_10.pth")
    assert_same_training(tmp_path / "new", reference, LAST)


def test_where_the_checkpoints_fall_does_not_matter(tmp_path, train, reference):
    folder = copy_run(reference, tmp_path / "run", "iter_5.pth")
    train("images", folder, resume="auto", default_hooks__checkpoint__interval=3)
    assert {p.name for p in folder.glob("*.pth")} == {f"iter_{i}.pth" for i in (5, 6, 9, 12, 14)}
    assert_same_training(folder, reference, LAST)


def test_resuming_a_finished_run_changes_nothing(tmp_path, train, reference):
    folder = copy_run(reference, tmp_path / "run", LAST)
    train("images", folder, resume="auto")
    assert [p.name for p in folder.glob("*.pth")] == [LAST]
    assert_same_training(folder, reference, LAST)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit_of_a_weight(path):
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["state_dict"]["generator.stem.weight"]
    at = content.find(weight.numpy().tobytes())
    assert at > 0
    content[at + 5] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("last", [None, "", "iter_99.pth\n", "iter_5.pth\n"])
def test_damaged_checkpoints_are_passed_over(tmp_path, train, reference, last):
    folder = copy_run(reference, tmp_path / "run", "iter_5.pth", "iter_10.pth", LAST)
    truncate(folder / LAST)
    flip_a_bit_of_a_weight(folder / "iter_10.pth")
    (folder / ".iter_12.pth.77.tmp").write_bytes(b"left over")
    (folder / "iter_13.pth.bak").write_bytes(b"not ours")
    if last is not None:
        (folder / LAST_CHECKPOINT).write_text(last)
    # The end comes soon: what is looked at is where training goes on.
    runner = train("images", folder, resume="auto", train_cfg__max_iters=6)
    (log,) = folder.glob("*/*.log")
    text = log.read_text()
    assert "iter_14.pth is truncated" in text
    assert "iter_10.pth is damaged" in text
    assert f"Resumed from {folder / 'iter_5.pth'} at iteration 5" in text
    assert runner.iter == 6


def test_without_a_checkpoint_resuming_is_starting(tmp_path, train):
    for name in ("plain", "resumed"):
        resume = "auto" if name == "resumed" else None
        train("points", tmp_path / name, resume=resume)
    assert_same_training(tmp_path / "resumed", tmp_path / "plain", "iter_6.pth")


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path, train, trained):
    folder = copy_run(trained("points"), tmp_path / "run", "iter_6.pth")
    before = (folder / "iter_6.pth").read_bytes()
    with pytest.raises(ConfigError, match=r"has checkpoints up to iter_6\.pth; add --resume"):
        train("points", folder)
    assert (folder / "iter_6.pth").read_bytes() == before


def test_a_new_run_can_begin_with_the_weights_of_another(tmp_path, train, trained):
    source = trained("points") / "iter_6.pth"
    runner = train(
        "points",
        tmp_path / "run",
        load_from=str(source),
        train_cfg__max_iters=1,
        optim_wrapper__generator__optimizer__lr=0.0,
        optim_wrapper__discriminator__optimizer__lr=0.0,
    )
    expected = read_checkpoint(source)["state_dict"]
    for name, tensor in runner.model.discriminator.state_dict().items():
        assert torch.equal(tensor, expected[f"discriminator.{name}"])
    assert runner.iter == 1


def test_a_checkpoint_of_another_model_changes_nothing(tmp_path, train, trained):
    with pytest.raises(CheckpointError, match="does not fit the model of the config"):
        train("points", tmp_path / "run", resume=trained("images") / LAST)


def test_a_checkpoint_of_other_schedulers_is_refused(tmp_path, train, trained):
    checkpoint = trained("points") / "iter_3.pth"
    schedulers = [
        {"type": "LinearLR", "by_epoch": False},
        {"type": "ConstantLR", "by_epoch": False},
    ]
    with pytest.raises(CheckpointError, match="does not fit the optimizers and schedulers"):
        train(
            "points",
            tmp_path / "run",
            resume=checkpoint,
            param_scheduler={"generator": schedulers, "discriminator": schedulers},
        )


def test_a_branch_does_not_delete_what_lies_ahead(tmp_path, train, trained):
    folder = copy_run(trained("images"), tmp_path / "run", "iter_5.pth", "iter_10.pth", LAST)
    train(
        "images",
        folder,
        resume=folder / "iter_5.pth",
        train_cfg__max_iters=8,
        default_hooks__checkpoint__interval=1,
        default_hooks__checkpoint__max_keep_ckpts=2,
    )
    assert {p.name for p in folder.glob("*.pth")} == {
        "iter_7.pth",
        "iter_8.pth",
        "iter_10.pth",
        LAST,
    }

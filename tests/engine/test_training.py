import copy
import itertools
import json
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddgan.engine import read_checkpoint
from ddgan.engine import runner as runner_module
from ddgan.engine.hooks import AtomicCheckpoint, RunningMeans, SampleImages, TrainingLog
from ddgan.engine.optim import usable_amp
from ddgan.errors import ConfigError, TrainingError
from ddgan.registry import HOOKS

EVERY = {
    "default_hooks__checkpoint__interval": 1,
    "default_hooks__checkpoint__max_keep_ckpts": -1,
}


def states(folder, *iterations):
    return [read_checkpoint(folder / f"iter_{i}.pth")["state_dict"] for i in iterations]


def network(state, name):
    return {k: v for k, v in state.items() if k.startswith(f"{name}.")}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@HOOKS.register_module(force=True)
class RecordStates(Hook):
    """Keep the model's state after each iteration in ``kept``."""

    kept: ClassVar[list] = []

    def before_train(self, runner):
        self.kept.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.kept.append(copy.deepcopy(runner.model.state_dict()))


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_equals_a_recomputation(tmp_path, train, warmup):
    options = {**EVERY, "model__ema_decay": 0.6, "model__ema_warmup": warmup}
    train("points", tmp_path, train_cfg__max_iters=4, **options)
    # The same average goes on after resuming.
    train("points", tmp_path, resume="auto", train_cfg__max_iters=7, **options)
    average = None
    for n, state in enumerate(states(tmp_path, *range(1, 8))):
        current = {k: v.double() for k, v in network(state, "generator").items()}
        decay = min(0.6, (1 + n) / (10 + n)) if warmup else 0.6
        if average is None:
            average = current
        average = {k: decay * average[k] + (1 - decay) * v for k, v in current.items()}
        for name, expected in average.items():
            actual = state[name.replace("generator.", "generator_ema.", 1)]
            torch.testing.assert_close(actual.double(), expected, rtol=0, atol=3e-7)
    assert not equal(current, average)


def test_accumulated_gradients_are_applied_together_and_to_the_last(tmp_path, train):
    train(
        "points",
        tmp_path,
        custom_hooks=[{"type": "RecordStates"}],
        train_cfg__max_iters=5,
        optim_wrapper__generator__accumulative_counts=2,
        optim_wrapper__discriminator__accumulative_counts=2,
    )
    after = RecordStates.kept
    for name in ("generator", "discriminator", "generator_ema"):
        weights = [network(state, name) for state in after]
        moved = [not equal(a, b) for a, b in itertools.pairwise(weights)]
        # Iterations 2 and 4 end a window, and the run ends the last one.
        assert moved == [True, False, True, True], name
    extra = after[-1]["_extra_state"]
    assert (extra["iteration"], extra["ema_updates"]) == (5, 3)


def test_two_accumulated_batches_are_one_of_twice_the_size(tmp_path, train):
    """Without an update in between, gradients of two batches average like those of one."""
    gradients = {}
    for name, batch, counts in (("one", 8, 1), ("two", 8, 2)):
        train(
            "points",
            tmp_path / name,
            train_cfg__max_iters=2,
            train_dataloader__batch_size=batch,
            optim_wrapper__discriminator__accumulative_counts=counts,
            optim_wrapper__discriminator__optimizer={"_delete_": True, "type": "SGD", "lr": 1e-3},
            param_scheduler={"_delete_": True, "generator": [], "discriminator": []},
            custom_hooks=[{"type": "RecordStates"}],
        )
        gradients[name] = [*RecordStates.kept]
    # Plain descent: at a small rate, two steps move twice as far as one with the mean gradient.
    start = network(gradients["two"][0], "discriminator")
    for name, initial in start.items():
        one = gradients["one"][1][name] - initial
        two = gradients["two"][1][name] - initial
        torch.testing.assert_close(one, 2 * two, rtol=0.02, atol=2e-6)


@pytest.mark.parametrize(
    ("device", "capability", "chosen"),
    [("cuda:0", (7, 0), "fp16"), ("cuda:0", (8, 0), "bf16"), ("cpu", None, "bf16")],
)
def test_a_gpu_without_bf16_trains_in_fp16(monkeypatch, recwarn, device, capability, chosen):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "V100")
    assert usable_amp("bf16", torch.device(device)) == chosen
    warned = any("V100 does not compute" in str(warning.message) for warning in recwarn)
    assert warned == (chosen == "fp16")
    assert usable_amp("off", torch.device(device)) == "off"


def test_bf16_trains_on_a_cpu(tmp_path, train):
    short = {"train_cfg__max_iters": 4, "default_hooks__checkpoint__interval": 4}
    half = {f"optim_wrapper__{n}__amp": "bf16" for n in ("generator", "discriminator")}
    train("images", tmp_path / "half", **short, **half)
    train("images", tmp_path / "full", **short)
    (low,), (full,) = states(tmp_path / "half", 4), states(tmp_path / "full", 4)
    gaps = [(low[k] - v).abs().max().item() for k, v in full.items() if torch.is_tensor(v)]
    assert all(low[k].dtype == v.dtype for k, v in full.items() if torch.is_tensor(v))
    # Adam moves a weight by at most about its rate per step, here 1.6e-4 over 4 steps.
    assert 0 < max(gaps) < 2 * 4 * 2e-4


@HOOKS.register_module(force=True)
class PoisonWeights(Hook):
    """Make a weight of the generator NaN after an iteration, as an overflow would."""

    priority = "VERY_HIGH"

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx + 1 == self.at:
            with torch.no_grad():
                next(runner.model.generator.parameters()).view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    ("at", "message"),
    [
        # The next updates show it, at the next report.
        (4, r"2 updates of the (generator|discriminator) in a row .* at iteration 6"),
        # It happens just before a checkpoint: no update has shown it yet.
        (6, r"weights, such as generator\.\S+, are not finite at iteration 6"),
    ],
)
def test_a_nan_stops_the_run_and_the_last_good_checkpoint_is_named(tmp_path, train, at, message):
    with pytest.raises(TrainingError, match=message) as error:
        train(
            "points",
            tmp_path,
            train_cfg__max_iters=20,
            custom_hooks=[{"type": "PoisonWeights", "at": at}],
            default_hooks__logger__interval=6,
            default_hooks__logger__max_skipped=1,
        )
    assert f"the last good checkpoint is {tmp_path / 'iter_3.pth'}" in str(error.value)
    assert [p.name for p in tmp_path.glob("*.pth")] == ["iter_3.pth"]
    (state,) = states(tmp_path, 3)
    assert all(v.isfinite().all() for v in state.values() if torch.is_tensor(v))


def test_a_nan_before_the_first_checkpoint(tmp_path, train):
    with pytest.raises(TrainingError, match=r"in a row .* no checkpoint was saved yet"):
        train("points", tmp_path, custom_hooks=[{"type": "PoisonWeights", "at": 1}])


def test_optimizers_must_be_those_of_the_networks(tmp_path, train):
    optimizer = {"optimizer": {"type": "Adam", "lr": 1e-4}}
    with pytest.raises(ConfigError, match=r"\['discriminator', 'generatr'.*expected an entry"):
        train(
            "points",
            tmp_path,
            optim_wrapper={"_delete_": True, "generatr": optimizer, "discriminator": optimizer,
                           "constructor": "PerNetworkOptimWrapperConstructor"},
            param_scheduler={"_delete_": True, "generatr": [], "discriminator": []},
        )  # fmt: skip


def test_checkpoints_kept(tmp_path, train):
    train(
        "points",
        tmp_path,
        default_hooks__checkpoint__interval=1,
        default_hooks__checkpoint__max_keep_ckpts=2,
    )
    assert sorted(p.name for p in tmp_path.glob("iter_*")) == ["iter_5.pth", "iter_6.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "iter_6.pth\n"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_checkpoints_to_choose_from_are_kept_besides_the_newest(tmp_path, train):
    options = {"interval": 1, "max_keep_ckpts": 1, "keep_every": 2}
    train("points", tmp_path, **{f"default_hooks__checkpoint__{k}": v for k, v in options.items()})
    assert sorted(p.stem for p in tmp_path.glob("iter_*")) == ["iter_2", "iter_4", "iter_6"]


def test_running_means_against_numpy():
    generator = np.random.default_rng(0)
    scalars = generator.normal(size=7).astype(np.float32)
    vectors = generator.normal(size=(7, 4)).astype(np.float32)
    vectors[generator.random((7, 4)) < 0.3] = np.nan
    vectors[:, 2] = np.nan
    means = RunningMeans()
    for i in range(7):
        sometimes = {"r1": torch.tensor(2.0)} if i == 3 else {}
        means.add({"a": torch.tensor(scalars[i]), "v": torch.tensor(vectors[i]), **sometimes})
    result = means.pop()
    expected = np.nanmean(vectors[:, [0, 1, 3]], axis=0)
    assert result.keys() == {"a", "v_1", "v_2", "v_4", "r1"}
    assert result["a"] == pytest.approx(scalars.mean(), rel=1e-5)
    assert [result["v_1"], result["v_2"], result["v_4"]] == pytest.approx(expected, rel=1e-5)
    assert result["r1"] == 2
    assert means.pop() == {}
    means.add({"a": torch.tensor(float("nan"))})
    assert np.isnan(means.pop()["a"])


LOSSES = {"d_loss", "g_loss", "real_logit", "fake_logit", "r1"}
STEPS = {f"d_loss_step_{i}" for i in range(1, 5)}
OTHERS = {
    "generator_lr", "discriminator_lr", "generator_grad_norm", "discriminator_grad_norm",
    "seconds_per_iter", "images_per_second", "data_wait", "memory_gib",
}  # fmt: skip


def test_scalars_are_written(trained):
    (file,) = trained("images").glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12, 14]
    assert set().union(*lines) >= LOSSES | STEPS | OTHERS
    assert lines[-1]["generator_lr"] == pytest.approx(1e-5, rel=0.2)
    for line in lines:
        assert abs(line["d_loss"] - 2 * np.log(2)) < 0.5
        assert line["images_per_second"] == pytest.approx(6 / line["seconds_per_iter"])


def test_tensorboard_has_curves_and_images(trained):
    (file,) = trained("images").glob("*/vis_data/events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    assert set(events.Tags()["scalars"]) >= LOSSES | STEPS | OTHERS
    assert [event.step for event in events.Scalars("d_loss")] == [4, 8, 12, 14]
    assert [event.step for event in events.Images("samples")] == [7, 14]


def test_the_log_tells_speed_and_time_left(trained):
    (file,) = trained("images").glob("*/*.log")
    text = file.read_text()
    assert "Training from iteration 0 to 14 with global batch 6 (1 x 6)" in text
    number = r"\d+(\.\d+)?"
    line = rf"iter 8/14  eta \d+:\d\d:\d\d  {number} s/iter  \d+ images/s .* {number} GiB  d_loss "
    assert re.search(line, text)
    assert "WARNING" not in text


@pytest.mark.parametrize("hook", [TrainingLog, AtomicCheckpoint, SampleImages])
def test_an_interval_is_at_least_one(hook):
    with pytest.raises(ValueError, match="interval"):
        hook(interval=0)
    with pytest.raises(ValueError, match="num is 0"):
        SampleImages(num=0)
    with pytest.raises(ValueError, match="at least 1 checkpoint kept"):
        AtomicCheckpoint(max_keep_ckpts=0)


class Closed:
    """A terminal that is gone."""

    def write(self, text):
        raise OSError(5, "Input/output error")

    def flush(self):
        pass


@HOOKS.register_module(force=True)
class CloseTerminal(Hook):
    """Close what the log is printed to."""

    def before_train(self, runner):
        runner.logger.handlers[0].setStream(Closed())


def test_a_terminal_that_is_gone_is_reported_once(tmp_path, train, capfd):
    hooks = [{"type": "CloseTerminal"}]
    runner = train("points", tmp_path, custom_hooks=hooks, default_hooks__logger__interval=1)
    assert runner.iter == 6
    error = capfd.readouterr().err
    assert error.count("the log cannot be written") == 1
    assert "Traceback" not in error
    (log,) = tmp_path.glob("*/*.log")
    assert "iter 6/6" in log.read_text()


def test_overrides_of_private_members_are_still_called(tmp_path, train, monkeypatch):
    """mmengine's own report and compilation are replaced by methods that it may rename."""
    compiled = []
    monkeypatch.setattr(runner_module, "compile_networks", compiled.append)
    first = train("points", tmp_path / "a", compile=True, train_cfg__max_iters=1)
    second = train("points", tmp_path / "b", train_cfg__max_iters=1)
    assert compiled == [first.model]
    assert "train_step" not in vars(first.model)
    for runner in (first, second):
        (log,) = Path(runner.work_dir).glob("*/*.log")
        assert log.read_text().count("ddgan 0.") == 1
        assert "System environment" not in log.read_text()
    assert first.timestamp != second.timestamp
    assert first.logger is not second.logger
    # Fused optimizers read on the device whether to skip a step.
    parameters = [torch.zeros(1, requires_grad=True)]
    assert torch.optim.Adam(parameters, fused=True)._step_supports_amp_scaling

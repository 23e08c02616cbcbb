"""Several processes: equal replicas, other numbers of them on resuming, several machines."""

import re
from pathlib import Path

import pytest
import torch
from run_checks import assert_one_message, checkpoints, faulty

from ddgan.engine import read_checkpoint
from ddgan.engine.hooks import EqualReplicas, parameter_sums

ROOT = Path(__file__).parents[2]
POINTS = ROOT / "tests" / "configs" / "points.py"


def run(processes):
    results = [process.wait() for process in processes]
    assert [status for status, _ in results] == [0] * len(results), results
    return results[0][1]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_resuming_with_another_number_of_processes(tmp_path, start_ranks, train, before, after):
    """The global batch stays, so the training does: its samples and draws are dealt out again."""
    folder = tmp_path / "run"
    train("points", tmp_path / "one", train_dataloader__batch_size=16)
    for count, options in ((before, ["train_cfg.max_iters=3"]), (after, ["resume=True"])):
        batch = f"train_dataloader.batch_size={16 // count}"
        arguments = (POINTS, "--work-dir", folder, "--cfg-options", batch, *options)
        output = run(start_ranks(count, *arguments))
    assert f"goes on with {after} process(es) instead of {before}" in output
    assert "global batch changes" not in output
    # The length was 3 when the schedules were made, which is said.
    assert "train_cfg.max_iters from 3 to 6" in output
    assert "Learning rates, their schedules" in output
    one = read_checkpoint(tmp_path / "one" / "iter_3.pth")["state_dict"]
    other = read_checkpoint(folder / "iter_3.pth")["state_dict"]
    end = read_checkpoint(folder / "iter_6.pth")
    assert end["meta"]["samples_seen"] == 96
    for name, value in one.items():
        if torch.is_tensor(value):
            assert not torch.equal(end["state_dict"][name], other[name])


def test_a_replica_that_differs_stops_the_run(tmp_path, start_ranks):
    change = {"name": "generator_ema.hidden.0.weight", "at": 3, "rank": 1}
    options = ("--cfg-options", "default_hooks.replicas.interval=2")
    config = faulty(tmp_path, Perturb=change)
    processes = start_ranks(2, config, "--work-dir", tmp_path / "run", *options)
    results = [process.wait() for process in processes]
    # The first to leave may keep the other from telling more than that it has gone.
    told = next(result for result in results if "networks differ" in result[1])
    assert_one_message(
        told,
        "networks differ at iteration 4",
        r"such as generator_ema\.hidden\.0\.weight",
        r"process \[1\]",
    )
    assert [status for status, _ in results] == [1, 1]
    assert checkpoints(tmp_path / "run") == ["iter_3.pth"]


def test_sums_of_parameters_notice_any_change():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)).double()
    before = parameter_sums(model)
    assert before.dtype == torch.int64
    assert torch.equal(before, parameter_sums(model))
    with torch.no_grad():
        model[0].weight.view(-1)[:2] = model[0].weight.view(-1)[:2].flip(0).clone()
        model[1].bias[1] = torch.nextafter(model[1].bias[1], torch.tensor(9.0).double())
    assert (parameter_sums(model) != before).tolist() == [True, False, False, True]
    with torch.no_grad():
        model[1].bias[1] = torch.nan
    assert torch.equal(parameter_sums(model), parameter_sums(model))
    with pytest.raises(ValueError, match="interval is 0"):
        EqualReplicas(0)


def test_memory_and_files_stay_flat(tmp_path, start_training):
    """2,000 iterations with checkpoints and samples."""
    folder = tmp_path / "run"
    options = ["train_cfg.max_iters=2000", "default_hooks.checkpoint.interval=50"]
    options += ["default_hooks.logger.interval=50", "model.generator.hidden_dim=4"]
    options += ["model.discriminator.hidden_dim=4"]
    hooks = {"SampleImages": {"interval": 400, "num": 4}, "RecordUse": {"interval": 100}}
    process = start_training(
        faulty(tmp_path, **hooks), "--work-dir", folder, "--cfg-options", *options
    )
    status, output = process.wait()
    assert status == 0, output
    use = [[int(n) for n in line.split()] for line in (folder / "use.txt").read_text().splitlines()]
    memory, files = zip(*use, strict=True)
    assert len(use) == 20
    # From the second quarter on: what is allocated once has been.
    assert max(memory[15:]) - min(memory[5:10]) < 4 * 1024
    # TensorBoard's thread may open its file for a moment; a leak grows.
    assert max(files[15:]) <= min(files[5:10]) + 1
    assert min(files[15:]) == min(files[5:10])
    assert len(re.findall("Saved ", output)) == 40

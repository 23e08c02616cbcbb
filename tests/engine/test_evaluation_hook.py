import json
from pathlib import Path

import pytest
import torch
from run_checks import POINTS, checkpoints, faulty

from ddgan.apis import load_model
from ddgan.data import Gaussians25
from ddgan.engine import load_config, read_checkpoint
from ddgan.engine.dry_run import dry_run
from ddgan.engine.evaluation_hook import EvaluateMetrics
from ddgan.errors import UserError
from ddgan.evaluation import read_records
from ddgan.evaluation.modes import gaussian_mode_coverage

TOYS = Path(__file__).parents[1] / "evaluation"
MODES = {"type": "EvaluateMetrics", "metric": "modes", "interval": 2, "num": 300}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "cache"))


def same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
        elif isinstance(value, dict):
            same(value, b[name])


def run_records(folder):
    found = [(r["protocol"]["iteration"], r["values"]) for r in read_records(folder)]
    return dict(found)


def test_training_is_the_same_with_it(train, tmp_path, trained, monkeypatch):
    monkeypatch.syspath_prepend(str(TOYS))
    import toy_metrics  # noqa: F401

    hook = {"type": "EvaluateMetrics", "metric": ["score", "pairs"], "interval": 3, "num": 20}
    hook |= {"best": "pairs", "lower_is_better": True}
    own = {
        "score": {"type": "ToyScore"},
        "pairs": {"type": "ToyPairs", "num_real": 9},
    }
    train("images", tmp_path / "run", custom_hooks=[hook], evaluation=own)
    with_hook = read_checkpoint(tmp_path / "run" / "iter_14.pth")
    without = read_checkpoint(trained("images") / "iter_14.pth")
    same(with_hook["state_dict"], without["state_dict"])
    same(with_hook["optimizer"], without["optimizer"])
    found = run_records(tmp_path / "run")
    assert sorted(found) == [3, 6, 9, 12, 14]


def test_records_curves_and_the_best_checkpoint(train, tmp_path):
    # The network trains so fast that the scores of so few iterations differ.
    options = {f"optim_wrapper__{n}__optimizer__lr": 0.05 for n in ("generator", "discriminator")}
    hook = {**MODES, "best": "kl"}
    runner = train("points", tmp_path / "run", custom_hooks=[hook], **options)
    folder = tmp_path / "run"
    by_iteration = {n: json.loads((folder / f"iter_{n}_modes.json").read_text()) for n in (2, 4, 6)}
    kl = {n: record["values"]["kl"] for n, record in by_iteration.items()}
    assert len(set(kl.values())) == 3
    samples = load_model(folder / "iter_6.pth", "cpu").sample(300, seed=0)
    data = runner.train_loop.dataloader.dataset
    expected = gaussian_mode_coverage(samples.numpy(), data.centres, data.std)
    assert by_iteration[6]["values"]["kl"] == expected.kl
    protocol = by_iteration[6]["protocol"]
    assert (protocol["num"], protocol["nfe"], protocol["checkpoint"]) == (300, 4, "iter_6.pth")

    best = min(kl, key=kl.get)
    assert read_checkpoint(folder / "best_kl.pth")["meta"]["iter"] == best
    record = json.loads((folder / "best_kl_kl.json").read_text())
    assert record["values"]["kl"] == kl[best]
    assert (folder / "last_checkpoint").read_text() == "iter_6.pth\n"
    logged = [
        json.loads(line)
        for path in folder.rglob("scalars.json")
        for line in path.read_text().splitlines()
    ]
    curve = {
        line["step"]: line["metrics/modes_kl"] for line in logged if "metrics/modes_kl" in line
    }
    assert curve == kl
    assert list(folder.rglob("events.out.tfevents*"))


def test_the_best_is_known_after_resuming(train, tmp_path):
    options = {f"optim_wrapper__{n}__optimizer__lr": 0.05 for n in ("generator", "discriminator")}
    hook = {**MODES, "best": "kl"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train("points", whole, custom_hooks=[hook], **options)
    parts.mkdir()
    for name in ("iter_3.pth", "best_kl.pth"):
        (parts / name).write_bytes((whole / name).read_bytes())
    record = json.loads((whole / "best_kl_kl.json").read_text())
    record["values"]["kl"] = -1.0
    (parts / "best_kl_kl.json").write_text(json.dumps(record))
    before = (parts / "best_kl.pth").read_bytes()
    train("points", parts, custom_hooks=[hook], resume="auto", **options)
    # Nothing is better than what the record says.
    assert (parts / "best_kl.pth").read_bytes() == before
    assert json.loads((parts / "best_kl_kl.json").read_text()) == record
    for n in (4, 6):
        a, b = (json.loads((f / f"iter_{n}_modes.json").read_text()) for f in (whole, parts))
        assert a["values"] == b["values"]


@pytest.mark.parametrize("change", ["number", "version", "data"])
def test_a_best_of_another_protocol_is_not_compared_with(train, tmp_path, change):
    train("points", tmp_path, custom_hooks=[MODES], train_cfg__max_iters=3)
    record = json.loads((tmp_path / "best_modes_modes.json").read_text())
    assert record["protocol"]["real"]["name"] == "gaussians25"
    record["values"]["modes"] = 1000
    if change == "version":
        record["version"] = "1"
    (tmp_path / "best_modes_modes.json").write_text(json.dumps(record))
    hook = {**MODES, "num": 200} if change == "number" else MODES
    scale = {"train_dataloader__dataset__scale": 0.3} if change == "data" else {}
    train("points", tmp_path, custom_hooks=[hook], resume="auto", **scale)
    record = json.loads((tmp_path / "best_modes_modes.json").read_text())
    assert record["values"]["modes"] <= 25
    assert record["version"] == "2"
    assert record["protocol"]["num"] == (200 if change == "number" else 300)


def test_two_processes_measure_what_one_does(start_ranks, tmp_path, train):
    config = Path(__file__).parents[1] / "configs" / "points.py"
    text = f"_base_ = [{str(config)!r}]\ncustom_hooks = [{MODES!r}]\n"
    (tmp_path / "config.py").write_text(text)
    arguments = (tmp_path / "config.py", "--work-dir", tmp_path / "two")
    for process in start_ranks(2, *arguments):
        status, output = process.wait()
        assert status == 0, output
    model = load_model(tmp_path / "two" / "iter_6.pth", "cpu")
    record = json.loads((tmp_path / "two" / "iter_6_modes.json").read_text())
    assert record["protocol"]["processes"] == 2
    data = Gaussians25()
    samples = model.sample(300, seed=0).numpy()
    assert record["values"]["kl"] == gaussian_mode_coverage(samples, data.centres, data.std).kl
    assert (tmp_path / "two" / "best_modes.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": []}, "metric is empty"),
        ({"metric": "fid", "interval": 0}, "interval is 0"),
        ({"metric": "fid", "num": 0}, "num is 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        EvaluateMetrics(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "fidd", "best": "kl"}, r"\['fidd'\] is not in the config's evaluation"),
        ({"metric": "kid", "num": 500}, "'kid' is to be measured on 500 samples.*at least 1000"),
        ({"metric": "modes", "best": "num_modes"}, "best is 'num_modes'.*set lower_is_better"),
    ],
)
def test_a_metric_that_cannot_be_followed_is_found_before_training(
    train, tmp_path, arguments, message
):
    hook = {"type": "EvaluateMetrics", **arguments}
    with pytest.raises(UserError, match=message):
        train("points", tmp_path, custom_hooks=[hook])
    assert not list(tmp_path.glob("iter_*"))
    with pytest.raises(UserError, match=message):
        dry_run(load_config(POINTS, {"custom_hooks": [hook], "work_dir": str(tmp_path)}))


def test_a_failure_of_one_process_is_told_to_all_and_costs_nothing(tmp_path, start_ranks):
    """Nobody waits for the process that failed, and training goes on."""
    config = faulty(tmp_path, FailOnOneRank={"rank": 1}, EvaluateMetrics={**MODES, "num": 600})
    options = ("--cfg-options", "env_cfg.dist_cfg.timeout=60")
    processes = start_ranks(2, config, "--work-dir", tmp_path / "run", *options)
    results = [process.wait() for process in processes]
    assert [status for status, _ in results] == [0, 0], results
    for done in (2, 4, 6):
        assert f"Evaluation failed at iteration {done}, and training goes on" in results[0][1]
    assert "process 1 failed with RuntimeError: no memory for samples" in results[0][1]
    assert checkpoints(tmp_path / "run") == ["iter_3.pth", "iter_6.pth"]

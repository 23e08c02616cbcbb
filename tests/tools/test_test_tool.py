import os
import pickle
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ddgan.apis import load_model
from ddgan.data import StackedDigits
from ddgan.engine import load_config
from ddgan.engine.checkpoint import save_checkpoint
from ddgan.engine.config import config_to_json
from ddgan.errors import UserError
from ddgan.evaluation import Evaluator, cache, read_records
from ddgan.evaluation.features import through_jpeg
from ddgan.registry import MODELS

ROOT = Path(__file__).parents[2]
TOYS = ROOT / "tests" / "evaluation"
sys.path.insert(0, str(TOYS))

# Shards have 500 samples, so that these are three.
NUM = 1_100
REAL = 700


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of a small network on digits, whose config has the toy metrics."""
    config = load_config(ROOT / "configs" / "ddgan_stackeddigits.py")
    config.model.generator.update(hidden_dim=32, num_layers=2)
    config.model.discriminator.update(hidden_dim=8, num_layers=1)
    config.train_dataloader.dataset.num_samples = REAL
    config.evaluation = {
        "toy": {"type": "ToyDistance", "num": NUM},
        "spread": {"type": "ToyDistance", "num": NUM},
        "pairs": {"type": "ToyPairs", "num": 60, "num_real": 90},
        "score": {"type": "ToyScore", "num": 80},
        "modes": {"type": "DigitModes", "num": 50},
    }
    model = MODELS.build(config.model)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            # Far from the zeros that networks begin with, and unlike the average.
            parameter.data.normal_(0, 2 * parameter[0].numel() ** -0.5, generator=generator)
    meta = {
        "iter": 14,
        "samples_seen": 84,
        "global_batch_size": 6,
        "seed": 1,
        "config": config_to_json(config),
    }
    path = tmp_path_factory.mktemp("toy") / "iter_14.pth"
    save_checkpoint(path, {"meta": meta, "state_dict": model.state_dict()})
    return path


COMMON = ("--device", "cpu", "--import", "toy_metrics")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def run(tmp_path, checkpoint):
    """A copy of the checkpoint in a work_dirs of its own."""
    path = tmp_path / "work_dirs" / "toys" / "iter_14.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(checkpoint.read_bytes())
    return path


@pytest.fixture
def score(call_tool, monkeypatch, tmp_path):
    monkeypatch.setenv("DDGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return call_tool("test", *arguments, *COMMON)

    return call


def records(folder):
    return {record["metric"]: record for record in read_records(folder)}


def logged(options, log):
    """Options that make the toy extractor count its images in a file."""
    names = ("toy", "spread", "pairs", "score")
    settings = [f"evaluation.{n}.extractor.type=ToyFeatures" for n in names]
    settings += [f"evaluation.{n}.extractor.log={log}" for n in names]
    return [*options, "--cfg-options", *settings]


def count(log):
    return sum(map(int, log.read_text().split())) if log.exists() else 0


def features(images):
    flat = images[:, :2].flatten(2).double()
    return torch.cat([flat.mean(2), flat.std(2)], dim=1)


def test_values_are_those_of_all_samples_and_images(run, score):
    status, output = score(run, "--metric", "toy", "spread", "pairs", "score", "modes", "nfe")
    assert status == 0, output
    found = records(run.parent)
    fake = features(load_model(run, "cpu").sample(NUM, seed=0))
    data = StackedDigits("train", num_samples=REAL)
    real = features(torch.stack([item["x"] for item in data.__getitems__(range(REAL))]))
    toy = found["toy"]
    assert toy["values"]["toy"] == pytest.approx(float((fake.mean(0) - real.mean(0)).norm()), 1e-5)
    assert toy["values"]["spread"] == pytest.approx(float(np.trace(np.cov(real.T.numpy()))), 1e-5)
    assert found["spread"]["values"] == toy["values"]
    assert f"toy: {toy['values']['toy']:.4g}" in output
    assert f"spread: {toy['values']['spread']:.4g}" in output
    assert found["score"]["values"]["score"] == pytest.approx(float(fake[:80, :2].std()), 1e-5)
    assert found["pairs"]["values"]["real"] == 90
    nearest = torch.cdist(fake[:60], real).min(1).values.mean()
    # Fewer real images are farther away.
    assert found["pairs"]["values"]["pairs"] > float(nearest)
    assert found["modes"]["protocol"]["num"] == 50
    assert found["nfe"]["values"] == {"nfe": 4}

    protocol = toy["protocol"]
    assert toy["version"] == "7"
    expected = {"checkpoint": "iter_14.pth", "iteration": 14, "num": NUM, "seed": 0, "nfe": 4}
    expected |= {"images_seen": 14 * 6, "global_batch_size": 6}
    assert {key: protocol[key] for key in expected} == expected
    assert protocol["ema"] is True
    assert protocol["device"] == "cpu"
    assert protocol["extractor"] == {"name": "toy", "digest": "digest-a"}
    assert protocol["real"]["digest"] == data.digest()
    assert (protocol["real"]["name"], protocol["real"]["used"]) == (data.name, REAL)
    assert found["pairs"]["protocol"]["real"]["used"] == 90
    assert "real" not in found["score"]["protocol"]
    assert {"torch", "date", "sampling", "device_name", "config"} <= protocol.keys()
    assert not (run.parent / "features").exists()
    assert not list((run.parents[2] / "cache").glob("samples/**/*"))


def test_images_are_seen_once_and_real_ones_never_again(run, score, tmp_path):
    names = ["--metric", "toy", "pairs", "score", "spread"]
    log = tmp_path / "log"
    status, output = score(run, *logged(names, log))
    assert status == 0, output
    first = records(run.parent)
    assert count(log) == NUM + REAL
    status, output = score(run, *logged([*names, "--keep-features"], log))
    assert status == 0, output
    assert count(log) == 2 * NUM + REAL
    status, output = score(run, *logged(names, log))
    assert count(log) == 2 * NUM + REAL
    again = records(run.parent)
    assert {n: r["values"] for n, r in again.items()} == {n: r["values"] for n, r in first.items()}
    assert score(run, *logged([*names, "--seed", 1], log))[0] == 0
    assert count(log) == 3 * NUM + REAL
    assert records(run.parent)["toy"]["values"] != first["toy"]["values"]
    assert score(run, *logged([*names, "--no-ema"], log))[0] == 0
    assert count(log) == 4 * NUM + REAL


def test_jpeg_changes_samples_and_not_real_images(run, score):
    changed = ["--cfg-options", "evaluation.toy.type=ToyDistance", "evaluation.toy.jpeg=75"]
    assert score(run, "--metric", "toy", "spread", *changed)[0] == 0
    toy, spread = (records(run.parent)[name] for name in ("toy", "spread"))
    assert toy["protocol"]["settings"] == {"jpeg": 75}
    assert "settings" not in spread["protocol"]
    assert toy["values"]["spread"] == spread["values"]["spread"]
    data = StackedDigits("train", num_samples=REAL)
    real = features(torch.stack([item["x"] for item in data.__getitems__(range(REAL))]))
    fake = features(through_jpeg(load_model(run, "cpu").sample(NUM, seed=0), 75))
    expected = float((fake.mean(0) - real.mean(0)).norm())
    assert toy["values"]["toy"] == pytest.approx(expected, 1e-5)
    assert toy["values"]["toy"] != pytest.approx(spread["values"]["toy"], 1e-5)


def test_the_preset_of_the_release(run, score, monkeypatch, tmp_path):
    """As its evaluation: JPEG files, pytorch-fid's resizing and one split; num stays."""
    chosen = {}

    def evaluator(metrics, *arguments):
        chosen.update(metrics)
        raise UserError("far enough")

    monkeypatch.setattr(Evaluator, "__init__", lambda self, *arguments: evaluator(*arguments))
    num = ["--cfg-options", "evaluation.fid.num=30000"]
    score(run, "--metric", "fid", "is", "score", "--preset", "release", *num)
    assert chosen["fid"].extractor == {"type": "InceptionExtractor", "resize": "pytorch"}
    assert (chosen["fid"].jpeg, chosen["fid"].num) == (75, 30_000)
    assert chosen["is"].splits == 1
    assert chosen["score"].jpeg is None
    # The same file as the base of a config.
    bases = [
        ROOT / "configs" / name for name in ("ddgan_cifar10.py", "_base_/evaluation/release.py")
    ]
    (tmp_path / "own.py").write_text(f"_base_ = {list(map(str, bases))}")
    assert load_config(tmp_path / "own.py").evaluation.fid.jpeg == 75
    status, output = score(run, "--metric", "fid", "--preset", "releas")
    assert status == 2
    assert "'release'" in output


def test_a_record_says_what_was_trained_and_measured(run, score, tmp_path):
    content = torch.load(run, weights_only=True)
    content["meta"] |= {"samples_seen": 900, "global_batch_size": 64}
    path = run.with_name("iter_15.pth")
    save_checkpoint(path, content)
    assert score(path, "--metric", "toy", "--num", 20, "--no-ema")[0] == 0
    protocol = records(run.parent)["toy"]["protocol"]
    expected = {"images_seen": 900, "global_batch_size": 64, "ema": False, "nfe": 4}
    expected |= {"processes": 1, "num": 20}
    assert {key: protocol[key] for key in expected} == expected
    assert protocol["real"]["used"] == protocol["real"]["num"] == REAL


def test_a_batch_size_changes_nothing_but_rounding(run, score):
    values = []
    for size in (7, 300):
        assert score(run, "--metric", "toy", "--num", 40, "--batch-size", size)[0] == 0
        values.append(records(run.parent)["toy"])
    assert values[0]["values"]["toy"] == pytest.approx(values[1]["values"]["toy"], rel=1e-2)
    assert values[0]["protocol"]["num"] == 40


def test_two_processes_give_the_numbers_of_one(run, score, tmp_path, start_tool):
    names = ["--metric", "toy", "pairs", "score", "modes", "--batch-size", 100]
    assert score(run, *names)[0] == 0
    one = records(run.parent)
    for file in run.parent.glob("*.json"):
        file.unlink()
    process = start_tool(
        ["bash", ROOT / "tools" / "dist_test.sh", 2, run, *names, *COMMON],
        tmp_path,
        PYTHONPATH=f"{ROOT}{os.pathsep}{TOYS}",
        PORT=free_port(),
        DDGAN_CACHE=str(tmp_path / "another"),
    )
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    two = records(run.parent)
    assert {n: r["values"] for n, r in two.items()} == {n: r["values"] for n, r in one.items()}
    assert two["toy"]["protocol"]["processes"] == 2
    assert output.count("toy: ") == 1
    assert "Warning" not in output


def test_a_killed_evaluation_goes_on_from_its_features(run, score, tmp_path, start_tool):
    log = tmp_path / "log"
    arguments = [run, *logged(["--metric", "toy"], log)]
    # Beyond the real images and the first two of the three shards of samples.
    fatal = f"evaluation.toy.extractor.kill_after={REAL + 1_050}"
    process = start_tool(
        [sys.executable, ROOT / "tools" / "test.py", *arguments, fatal, *COMMON],
        tmp_path,
        PYTHONPATH=f"{ROOT}{os.pathsep}{TOYS}",
        DDGAN_CACHE=str(tmp_path / "cache"),
    )
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert not list(run.parent.glob("*.json"))
    assert len(list((tmp_path / "cache" / "samples").glob("*/shard_*.safetensors"))) == 2
    before = count(log)
    status, output = score(*arguments)
    assert status == 0, output
    assert count(log) - before == NUM - 1_000
    resumed = records(run.parent)["toy"]["values"]
    assert score(run, "--metric", "toy")[0] == 0
    assert records(run.parent)["toy"]["values"] == resumed


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_malicious_checkpoint_is_refused(score, tmp_path):
    marker = tmp_path / "ran"
    files = [tmp_path / name for name in ("a.pth", "b.pth", "c.safetensors")]
    torch.save({"format": "ddgan-checkpoint-1", "meta": Malicious(marker)}, files[0])
    for file in files[1:]:
        file.write_bytes(pickle.dumps(Malicious(marker)))
    for file in files:
        status, output = score(file, "--metric", "toy")
        assert status == 1, output
        assert output.count("error:") == 1
        assert str(file) in output
        assert "Traceback" not in output
    assert not marker.exists()
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize("kind", ["pickle", "truncated", "altered", "of others"])
def test_files_of_the_cache_that_are_not_what_was_written(run, score, tmp_path, monkeypatch, kind):
    log, marker, messages = tmp_path / "log", tmp_path / "ran", []
    monkeypatch.setattr(cache, "print_log", lambda text, *_: messages.append(text))
    arguments = [run, *logged(["--metric", "toy", "pairs", "--keep-features"], log)]
    assert score(*arguments)[0] == 0
    expected, seen = records(run.parent)["toy"]["values"], count(log)
    found = sorted((tmp_path / "cache").rglob("*.safetensors"))
    # Three of samples, one of the real features that stay, and the real statistics.
    assert len(found) == 5
    other = found[0].read_bytes()
    for path in found:
        content = path.read_bytes()
        middle = len(content) - 100
        path.write_bytes(
            {
                "pickle": pickle.dumps(Malicious(marker)),
                "truncated": content[:-7],
                "altered": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "of others": other,
            }[kind]
        )
    status, output = score(*arguments)
    assert status == 0, output
    same = int(kind == "of others")
    assert len(messages) == 5 - same
    assert all("is computed again" in text for text in messages)
    assert not marker.exists()
    assert records(run.parent)["toy"]["values"] == expected
    assert count(log) > seen


def test_without_files_the_newest_run_is_taken(run, score, tmp_path):
    status, output = score("--metric", "score")
    assert status == 0, output
    assert "using work_dirs/toys/iter_14.pth" in output
    assert "score: " in output
    status, output = score(ROOT / "tests" / "configs" / "points.py", "--metric", "score")
    assert status == 1
    assert "there is no run in work_dirs/points; name a checkpoint" in output


def test_real_statistics_are_exported_and_imported(run, score, tmp_path):
    file = tmp_path / "real.npz"
    status, output = score(run, "--metric", "toy", "--export-real", file)
    assert status == 0, output
    assert f"is in {file}" in output
    values = records(run.parent)["toy"]["values"]
    with np.load(file, allow_pickle=False) as data:
        assert data["sigma"].dtype == np.float64
        mu, sigma = data["mu"], data["sigma"]
    np.savez(tmp_path / "theirs.npz", mu=mu, sigma=sigma)
    for name in ("real.npz", "theirs.npz"):
        # The data set is not opened.
        options = ["--cfg-options", "train_dataloader.dataset.split=none"]
        status, output = score(run, "--metric", "toy", "--real", tmp_path / name, *options)
        assert status == 0, output
        record = records(run.parent)["toy"]
        assert record["values"]["toy"] == values["toy"]
        assert record["protocol"]["real"]["file"] == name
    status, output = score(run, "--metric", "pairs", "--real", tmp_path / "theirs.npz")
    assert status == 1
    assert "--metric pairs compares single features" in output
    status, output = score(run, "--metric", "pairs", "--export-real", file)
    assert status == 0, output
    pairs = records(run.parent)["pairs"]["values"]
    assert score(run, "--metric", "pairs", "--real", file)[0] == 0
    assert records(run.parent)["pairs"]["values"] == pairs


BAD = {
    "unknown metric": (["--metric", "toyy"], ["['toyy']", "'toy'", "'fid'", "'time'"]),
    "no samples": (["--metric", "toy", "--num", 0], ["--num", "at least 1"]),
    "no batch": (["--metric", "toy", "--batch-size", 0], ["--batch-size", "at least 1"]),
    "no file": (["--metric", "toy", "--real", "no.npz"], ["no.npz does not exist"]),
    "unused file": (["--metric", "score", "--real", "a.npz"], ["none of ['score'] compares"]),
    "argument": (
        ["--metric", "toy", "--cfg-options", "evaluation.toy.numm=3"], ["'numm'"],
    ),
    "data": (
        ["--metric", "toy", "--cfg-options", "train_dataloader.dataset.split=none"],
        ["split is 'none'"],
    ),
    "shape": (
        ["--metric", "toy", "--cfg-options", "evaluation_dataset.type=Gaussians25"],
        ["(2,)", "(3, 8, 8)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_message(run, score, name):
    arguments, parts = BAD[name]
    status, output = score(run, *arguments)
    assert status in (1, 2), output
    assert output.count("error:") == 1
    assert "Traceback" not in output
    for part in parts:
        assert part in output
    assert not list(run.parent.glob("*.json"))


def test_points_have_no_image_features(trained, score, tmp_path):
    path = tmp_path / "iter_6.pth"
    path.write_bytes((trained("points") / "iter_6.pth").read_bytes())
    options = ["--cfg-options", "evaluation.toy.type=ToyDistance"]
    status, output = score(path, "--metric", "toy", *options)
    assert status == 1
    assert "--metric toy is of images with 1 or 3 channels; the model makes samples" in output


def test_a_record_that_cannot_be_written_does_not_cost_the_value(run, score, monkeypatch):
    (run.parent / "iter_14_nfe.json").mkdir()
    status, output = score(run, "--metric", "nfe")
    assert status == 1
    assert "nfe: 4" in output
    assert "iter_14_nfe.json" in output


def test_time_and_evaluations(run, score):
    status, output = score(run, "--metric", "time", "nfe", "--batch-size", 20)
    assert status == 0, output
    values = records(run.parent)["time"]["values"]
    assert values["batch_size"] == 20
    assert values["nfe"] == 4
    order = [values[f"seconds{end}"] for end in ("_min", "_q25", "", "_q75", "_max")]
    assert order == sorted(order)
    assert order[0] > 0
    assert "time: seconds" in output.replace("time:  ", "time: ")

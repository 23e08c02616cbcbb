"""configs/spigan_cifar10.py, made small, on one and two processes and through an interruption."""

import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan.apis import auto_batch_size, load_model
from ddgan.engine import Runner, load_config, read_checkpoint
from ddgan.engine.dry_run import dry_run

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "spigan_cifar10.py"

SMALL = {
    "model.generator.mapping.dim": 8,
    "model.generator.mapping.hidden_dim": 8,
    "model.generator.synthesis.latent_dim": 8,
    "model.generator.synthesis.w_dim": 8,
    "model.generator.synthesis.channel_base": 64,
    "model.generator.synthesis.max_channels": 4,
    "model.discriminator.channel_base": 64,
    "model.discriminator.max_channels": 4,
    "model.discriminator.time_embedding_dim": 8,
    # Groups of one do not depend on how a batch is divided.
    "model.discriminator.stddev_group": 1,
    "model.r1_interval": 2,
    "model.path_length_weight": 2.0,
    "model.path_length_interval": 3,
    "model.augment.kimg": 0.02,
    "model.augment.interval": 1,
    "model.ema_half_life": 50,
    "model.ema_ramp_up": 0.5,
    "train_cfg.max_iters": 4,
    "train_dataloader.dataset.verify": False,
    "default_hooks.checkpoint.interval": 2,
    "default_hooks.logger.interval": 2,
    "custom_hooks.0.interval": 100,
    "custom_hooks.0.num": 2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar10")
    random = np.random.default_rng(0)
    for index in range(1, 6):
        images = random.integers(0, 256, (4, 3072), dtype=np.uint8)
        batch = {b"data": images, b"labels": [0] * 4}
        (folder / f"data_batch_{index}").write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def options(data, batch_size):
    return SMALL | {
        "train_dataloader.dataset.root": str(data),
        "train_dataloader.batch_size": batch_size,
    }


def train(data, folder, batch_size, resume=False):
    cfg = load_config(CONFIG, options(data, batch_size))
    cfg.work_dir, cfg.resume = str(folder), resume
    cfg.experiment_name = f"{folder.name}{resume}"
    Runner.from_cfg(cfg).train()
    return read_checkpoint(folder / "iter_4.pth")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data):
    """The folder and last checkpoint of a run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "alone"
    return folder, train(data, folder, batch_size=8)


def test_two_processes_train_like_one_with_twice_the_batch(tmp_path, data, alone, start_tool):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    settings = [f"{key}={value}" for key, value in options(data, 4).items()]
    arguments = ["--device", "cpu", "--work-dir", tmp_path / "two", "--cfg-options", *settings]
    launcher = ROOT / "tools" / "dist_train.sh"
    process = start_tool(["bash", launcher, CONFIG, 2, *arguments], tmp_path, PORT=port)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "global batch 8 (2 x 4)" in output
    one, two = alone[1], read_checkpoint(tmp_path / "two" / "iter_4.pth")
    start = read_checkpoint(alone[0] / "iter_2.pth")["state_dict"]
    assert one["state_dict"]["_extra_state"] == two["state_dict"]["_extra_state"]
    moved = set()
    for name, expected in one["state_dict"].items():
        if torch.is_tensor(expected):
            torch.testing.assert_close(
                two["state_dict"][name], expected, rtol=1e-3, atol=1e-4, msg=name
            )
            if not torch.equal(start[name], expected):
                moved.add(name)
    assert {"augment.p", "path_length.mean", "generator.synthesis.w_average"} <= moved


def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path, data, alone):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "iter_2.pth").write_bytes((alone[0] / "iter_2.pth").read_bytes())
    resumed, expected = train(data, folder, batch_size=8, resume=True), alone[1]
    assert resumed["state_dict"].keys() == expected["state_dict"].keys()
    for name, value in expected["state_dict"].items():
        if torch.is_tensor(value):
            assert torch.equal(resumed["state_dict"][name], value), name
        else:
            assert resumed["state_dict"][name] == value
    for network in ("generator", "discriminator"):
        moments = resumed["optimizer"][network]["state"]
        for key, entry in expected["optimizer"][network]["state"].items():
            assert torch.equal(moments[key]["exp_avg_sq"], entry["exp_avg_sq"])


def test_checkpoints_sample_and_are_measured(alone, data, tmp_path):
    model = load_model(alone[0] / "iter_4.pth", "cpu")
    assert type(model).__name__ == "SPIGAN"
    assert model.sample(3).shape == (3, 3, 32, 32)
    assert 1 <= auto_batch_size(model) <= 1000
    report = dry_run(load_config(CONFIG, options(data, 8) | {"work_dir": str(tmp_path)}))
    assert "SPIGAN of samples (3, 32, 32), each drawn with 1 evaluation(s)" in report
    assert "memory: about" in report


@pytest.mark.parametrize("image", ["latent-path", "interpolate-z", "interpolate-h"])
def test_latents_are_drawn(alone, call_tool, tmp_path, image):
    out = tmp_path / "a.png"
    arguments = (alone[0] / "iter_4.pth", "--rows", 2, "--points", 3, "--out", out)
    status, output = call_tool("visualize", image, *arguments)
    assert status == 0, output
    assert Image.open(out).size == (3 * 34 - 2, 2 * 34 - 2)


@pytest.mark.parametrize("name", ["spigan_celebahq256", "ablations/spigan_cifar10_fixed"])
def test_configs_are_sound(name):
    assert load_config(ROOT / "configs" / f"{name}.py").model.type == "SPIGAN"

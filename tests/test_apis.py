import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddgan.apis import auto_batch_size, load_model
from ddgan.engine import read_checkpoint, read_weights, save_release
from ddgan.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def checkpoint(lively):
    return lively


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_model(checkpoint, device="cpu")


@pytest.fixture
def release(checkpoint, tmp_path):
    """Return a function that writes a release of the checkpoint, its config changed."""

    def write(change=lambda config: None, keep=("generator_ema.",), name="model.safetensors"):
        config, state, info = read_weights(checkpoint)
        change(config)
        state = {k: v for k, v in state.items() if torch.is_tensor(v) and k.startswith(keep)}
        save_release(tmp_path / name, state, config, info)
        return tmp_path / name

    return write


def test_a_checkpoint_of_training_opens(model, checkpoint):
    assert not model.training
    state = read_checkpoint(checkpoint)["state_dict"]
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[k], v) for k, v in state.items() if torch.is_tensor(v))
    assert model.iteration == 14


def test_networks_take_0_based_time(model):
    x_t, t, z = torch.randn(3, 3, 8, 8), torch.tensor([0, 3, 1]), torch.randn(3, 4)
    with torch.no_grad():
        assert model.generator_ema(x_t, t, z).shape == (3, 3, 8, 8)
        assert model.discriminator(x_t, t, x_t).numel() == 3


def test_posterior_coefficients_can_be_read(model):
    # Eq. 16 and the posterior's mean (Ho et al., 2020, Eq. 7), recomputed.
    s = np.arange(5) / 4
    alpha_bar = np.exp(-(s**2) * 19.9 / 2 - s * 0.1)
    beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    c1 = np.sqrt(alpha_bar[:-1]) * beta / (1 - alpha_bar[1:])
    c2 = np.sqrt(1 - beta) * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
    for name, expected in (("posterior_mean_coef1", c1), ("posterior_mean_coef2", c2)):
        table = np.asarray(getattr(model.diffusion, name), np.float64)
        np.testing.assert_allclose(table[-4:], expected, rtol=1e-5, atol=1e-7)


def test_samples_have_the_promised_form(model, trained):
    samples = model.sample(5, seed=3)
    assert samples.shape == (5, 3, 8, 8)
    assert samples.dtype == torch.uint8
    assert model.sample(0).shape == (0, 3, 8, 8)
    points = load_model(trained("points") / "iter_6.pth", device="cpu").sample(4, batch_size=3)
    assert points.shape == (4, 2)
    assert points.dtype == torch.float32
    assert points.isfinite().all()


def distance(a, b):
    """Return the largest difference in grey levels; rounding alone makes one."""
    return int((a.int() - b.int()).abs().max())


def test_samples_depend_on_seed_and_index_alone(model):
    samples = model.sample(11, seed=3, batch_size=11)
    assert torch.equal(model.sample(11, seed=3), samples)
    for batch_size in (1, 4, 10):
        assert distance(model.sample(11, seed=3, batch_size=batch_size), samples) <= 1
    assert distance(model.sample(4, seed=3, first_index=7), samples[7:]) <= 1
    assert distance(model.sample(11, seed=4), samples) > 50
    assert distance(model.sample(11, seed=3, use_ema=False), samples) > 50
    assert distance(samples[:1], samples[1:2]) > 50
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model.sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_release_gives_the_samples_of_its_checkpoint(release, model):
    path = release()
    assert {name.split(".")[0] for name in load_file(path)} == {"generator_ema"}
    opened = load_model(path, device="cpu")
    assert torch.equal(opened.sample(3, seed=1), model.sample(3, seed=1))
    # With the average alone, it stands in for the generator as well.
    assert torch.equal(opened.sample(3, seed=1, use_ema=False), model.sample(3, seed=1))
    whole = load_model(release(keep=("gen", "disc")), device="cpu")
    assert torch.equal(whole.sample(3, use_ema=False), model.sample(3, use_ema=False))


def test_a_release_for_another_config_is_refused(release):
    def widen(config):
        config.model.generator.base_channels = 16

    with pytest.raises(CheckpointError, match=r"generator\S* is \(.*\) in the file and \("):
        load_model(release(widen))
    with pytest.raises(CheckpointError, match=r"lacks \['generator"):
        load_model(release(keep=("generator_ema.stem",)))


EVIL = [
    ("os.system", {"command": "touch ran"}),
    ("subprocess.Popen", {"args": ["touch", "ran"]}),
    ("builtins.exec", {"source": "open('ran', 'w')"}),
    ("evil_package.Network", {}),
]


@pytest.mark.parametrize(("kind", "arguments"), EVIL, ids=[kind for kind, _ in EVIL])
@pytest.mark.parametrize("place", ["model", "generator", "scope", "evaluation"])
def test_nothing_that_a_file_names_is_run_or_imported(
    kind, arguments, place, release, tmp_path, monkeypatch, call_tool
):
    for name in ("evil_package", "evil_package/registry"):
        path = tmp_path / f"{name.replace('/', '_')}.py"
        path.write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    component = {"type": kind, **arguments}

    def change(config):
        if place == "model":
            config.model = component
        elif place == "generator":
            config.model.generator = component
        elif place == "scope":
            config.model.generator._scope_ = kind.split(".")[0]
        else:
            config.evaluation = {"modes": component}

    path = release(change)
    if place == "evaluation":
        status, output = call_tool("test", path, "--metric", "modes", "--device", "cpu")
    else:
        with pytest.raises(ConfigError, match=r"no imported package registers|'_scope_'"):
            load_model(path)
        arguments = ("--num", 2, "--device", "cpu", "--out", tmp_path / "a.npz")
        status, output = call_tool("sample", path, *arguments)
    assert status == 1
    assert output.count("error:") == 1
    assert "Traceback" not in output
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "a.npz").exists()
    assert not [name for name in sys.modules if name.startswith("evil_package")]


def test_the_automatic_batch_size_is_within_bounds(model):
    assert 1 <= auto_batch_size(model) <= 1000


def test_the_test_tool_writes_a_record(trained, tmp_path, call_tool):
    path = tmp_path / "iter_6.pth"
    path.write_bytes((trained("points") / "iter_6.pth").read_bytes())
    arguments = (path, "--metric", "modes", "--num", 60, "--device", "cpu")
    status, output = call_tool("test", *arguments, "--batch-size", 7)
    assert status == 0, output
    record = json.loads((tmp_path / "iter_6_modes.json").read_text())
    values = record["values"]
    assert f"modes: {values['modes']} / 25  KL: {values['kl']:.3f}" in output
    assert record["protocol"]["num"] == 60
    assert record["protocol"]["iteration"] == 6
    status, output = call_tool("test", *arguments, "--batch-size", 60)
    assert json.loads((tmp_path / "iter_6_modes.json").read_text())["values"] == values
    status, output = call_tool("test", path, "--metric", "mods")
    assert status == 1
    assert "--metric ['mods'] is not in the config's evaluation, which has ['modes']" in output

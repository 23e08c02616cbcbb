"""The rows of DDGAN's Table 2 in their small form: what makes each of them what it is."""

from pathlib import Path

import pytest
import torch

from ddgan.diffusion import Diffusion
from ddgan.engine import load_config
from ddgan.engine.optim import build_optim_wrappers
from ddgan.models import DDGAN
from ddgan.models.augment import DiffusionAugmentation
from ddgan.models.rng import StepRandom
from ddgan.registry import DATASETS, MODELS

CONFIGS = Path(__file__).parents[2] / "configs"
ROWS = ("t1", "t2", "t8", "oneshot_augmentation", "direct", "noise", "nolatent")


def settings(row):
    """What a row changes, as dotted keys of the model, read from its config of full size."""
    base = load_config(CONFIGS / "ddgan_cifar10.py").model.to_dict()
    full = load_config(CONFIGS / "ablations" / f"ddgan_cifar10_{row}.py").model.to_dict()
    changed = {}
    for part, value in full.items():
        if isinstance(value, dict) and part in base:
            for key in value:
                if value[key] != base[part].get(key):
                    changed[f"model.{part}.{key}"] = value[key]
        elif value != base.get(part):
            changed[f"model.{part}"] = value
    return changed


def small(row):
    """Return the row's config on StackedDigits, with small networks."""
    options = settings(row) if row != "t4" else {}
    for part in ("generator", "discriminator"):
        options[f"model.{part}.hidden_dim"] = 32
    options["train_dataloader.batch_size"] = 32
    return load_config(CONFIGS / "ddgan_stackeddigits.py", options)


def build(row):
    torch.manual_seed(0)
    return MODELS.build(small(row).model)


def train(row, iterations=6):
    cfg, model = small(row), build(row)
    optimizers = build_optim_wrappers(cfg.optim_wrapper, model)
    data = DATASETS.build(cfg.train_dataloader.dataset)
    for i in range(iterations):
        torch.manual_seed(i)
        x = torch.stack([data[j]["x"] for j in range(32 * i, 32 * i + 32)])
        logs = model.train_step({"x": x}, optimizers)
    return model, logs


def test_each_row_changes_what_its_name_says():
    assert {row: settings(row) for row in ROWS} == {
        "t1": {"model.diffusion.num_steps": 1},
        "t2": {"model.diffusion.num_steps": 2},
        "t8": {"model.diffusion.num_steps": 8},
        "oneshot_augmentation": {
            "model.diffusion.num_steps": 1,
            "model.augment": {"type": "DiffusionAugmentation", "num_steps": 4},
        },
        "direct": {"model.generator.tanh": False, "model.parametrization": "direct"},
        "noise": {"model.generator.tanh": False, "model.parametrization": "noise"},
        "nolatent": {"model.generator.latent_dim": 0},
    }


@pytest.mark.parametrize("row", ["t4", *ROWS])
def test_each_row_trains_and_samples_in_its_small_form(row):
    model, logs = train(row)
    steps = model.diffusion.num_steps
    # The networks' T is the diffusion's, which a config states once.
    assert model.generator.num_steps == model.discriminator.num_steps == steps
    assert logs["d_loss_step"].shape == (steps,)
    assert all(value.isfinite().all() for name, value in logs.items() if name != "d_loss_step")
    calls = []
    model.generator_ema.register_forward_hook(lambda *_: calls.append(1))
    samples = model.sample(8)
    assert len(calls) == model.num_evaluations == steps
    assert samples.shape == (8, 3, 8, 8)
    assert len(torch.unique(samples, dim=0)) == 8


def test_draws_of_x0_differ_with_a_latent_and_not_without():
    x_t = torch.randn(1, 3, 8, 8).expand(6, -1, -1, -1)
    for t in (1, 2, 3, 4):
        assert build("t4").draw_x0(x_t, t).var(0).mean() > 1e-5
        # Equal rows of a matrix product may still round apart.
        assert build("nolatent").draw_x0(x_t, t).var(0).max() < 1e-10
    assert not any("mapping" in name for name, _ in build("nolatent").named_parameters())


POSTERIOR = ("posterior_mean", "posterior_mean_from_noise", "add_posterior_noise", "predict_x0")


@pytest.mark.parametrize(
    ("row", "used"),
    [
        ("t4", {"posterior_mean", "add_posterior_noise"}),
        ("direct", set()),
        ("noise", {"posterior_mean_from_noise", "add_posterior_noise"}),
    ],
)
def test_what_of_the_posterior_a_parametrization_uses(row, used, monkeypatch):
    """Direct denoising never computes a posterior; noise generation goes through Eq. 12."""
    called = set()
    for name in POSTERIOR:
        original = getattr(Diffusion, name)

        def listening(self, *args, name=name, original=original):
            called.add(name)
            return original(self, *args)

        monkeypatch.setattr(Diffusion, name, listening)
    model, _ = train(row, 1)
    assert called == used
    called.clear()
    model.sample(2)
    assert called == used


def test_direct_denoising_outputs_the_state_itself():
    model = build("direct")
    x_t, t = torch.randn(5, 3, 8, 8), torch.tensor([1, 2, 3, 4, 4])
    outputs = []
    model.generator.register_forward_hook(lambda _, __, output: outputs.append(output))
    z, noise = model.step_noise(x_t, StepRandom(5, x_t.device))
    x_prev = model.denoise(model.generator, x_t, t, z, noise)
    assert torch.equal(x_prev, outputs[0])
    # x_{t-1} is as noisy as it is: the output has no bounds.
    assert model.generator.tanh is False


def test_noise_generation_with_the_true_noise_is_the_posterior_of_the_truth():
    model = build("noise").double()
    x0, eps = torch.rand(2, 4, 3, 8, 8, dtype=torch.float64)
    t = torch.tensor([1, 2, 3, 4])
    x_t = model.diffusion.q_sample(x0, t, eps)
    expected = model.diffusion.posterior_mean(x0, x_t, t)
    actual = model.parametrization.x_prev(model.diffusion, eps, x_t, t, torch.zeros_like(x0))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_one_step_ends_in_x0_itself_and_the_condition_tells_nothing():
    model = build("t1")
    x0 = torch.rand(64, 3, 8, 8)
    t, x_prev, x_t = model.diffuse(x0, StepRandom(64, x0.device))
    assert (t == 1).all()
    assert torch.equal(x_prev, x0)
    correlation = torch.corrcoef(torch.stack([x0.flatten(), x_t.flatten()]))[0, 1]
    assert abs(correlation) < 0.05


class Listening(DiffusionAugmentation):
    """Keeps what it was given and what it returned."""

    def __init__(self):
        super().__init__(num_steps=4)
        self.pairs = []

    def forward(self, x, random):
        y = super().forward(x, random)
        self.pairs.append((x.detach(), y.detach()))
        return y


def test_augmentation_diffuses_real_and_fake_for_both_networks():
    model = build("oneshot_augmentation")
    assert isinstance(model, DDGAN)
    assert isinstance(model.augment, DiffusionAugmentation)
    model.augment = Listening()
    seen = []
    model.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    x0 = torch.rand(32, 3, 8, 8)
    model.discriminator_loss(x0, StepRandom(32, x0.device))
    loss, _ = model.generator_loss(x0, StepRandom(32, x0.device))
    (real, _), (fake, _), (fresh, _) = model.augment.pairs
    assert torch.equal(real, x0)
    assert not torch.equal(fake, fresh)
    # The discriminator sees what was diffused and nothing else.
    for x, (_, diffused) in zip(seen, model.augment.pairs, strict=True):
        assert torch.equal(x, diffused)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.generator.parameters())


def test_the_augmentation_reaches_every_time_but_the_last():
    """Of zeros only noise is left: its deviation tells the time, clean among them."""
    augment = DiffusionAugmentation(num_steps=4)
    torch.manual_seed(0)
    x = torch.zeros(400, 3, 8, 8)
    levels = augment(x, StepRandom(400, x.device)).flatten(1).std(1)
    expected = augment.diffusion.sqrt_one_minus_alpha_bar
    nearest = (levels[:, None] - expected).abs().argmin(1)
    counts = torch.bincount(nearest, minlength=5).tolist()
    assert all(60 < count < 140 for count in counts[:3])
    # Times 3 and 4 are almost equally noisy.
    assert 60 < counts[3] + counts[4] < 140
    signal = augment(torch.ones(4000, 1), StepRandom(4000, x.device))
    # The last time, with nothing of the data, would pull the mean down to 4/5 of this.
    expected = augment.diffusion.sqrt_alpha_bar[:4].mean().item()
    assert signal.mean().item() == pytest.approx(expected, abs=0.04)

"""The library's networks and train step compute what the plain implementation computes."""

import copy

import pytest
import torch

from ddgan.engine.optim import build_optim_wrappers
from ddgan.models import DDGAN
from ddgan.models.rng import StepRandom
from ddgan.networks import NCSNpp, TimeDependentDiscriminator

from . import plain
from .from_library import plain_discriminator, plain_generator, trainer

N = 4


@pytest.fixture
def model():
    torch.manual_seed(0)
    generator = NCSNpp(
        16,
        base_channels=16,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        latent_dim=5,
        embedding_dim=8,
        num_mapping_layers=2,
    )
    discriminator = TimeDependentDiscriminator(
        stem_channels=8, blocks=((8, False), (16, True)), time_embedding_dim=8
    )
    for network in (generator, discriminator):
        for parameter in network.parameters():
            fan_in = parameter[0].numel()
            torch.nn.init.normal_(parameter, 0, fan_in**-0.5 if parameter.ndim > 1 else 0.3)
    diffusion = {"num_steps": 4, "time_epsilon": 1e-3}
    return DDGAN(generator, discriminator, diffusion, r1_gamma=0.5, ema_decay=0.9)


def images():
    return torch.randn(N, 3, 16, 16, dtype=torch.float64).clamp(-1, 1)


def test_networks_agree_in_float64(model):
    model = model.double()
    x, y, t = images(), images(), torch.arange(N) % 4
    z = torch.randn(N, 5, dtype=torch.float64)
    ours = model.generator(x, t, z)
    assert ours.std() > 0.05
    torch.testing.assert_close(ours, plain_generator(model.generator)(x, t, z), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        model.discriminator(x, t, y)[:, 0],
        plain_discriminator(model.discriminator)(x, t, y),
        rtol=1e-10,
        atol=1e-10,
    )


def test_tables_agree(model):
    ours, theirs = model.diffusion, plain.Process(4, like=torch.zeros((), dtype=torch.float64))
    for name, table in (
        ("sqrt_alpha_bar", theirs.signal),
        ("sqrt_one_minus_alpha_bar", theirs.sigma),
        ("posterior_mean_coef1", theirs.mean_x0[1:]),
        ("posterior_mean_coef2", theirs.mean_x_t[1:]),
        ("posterior_std", theirs.deviation[1:]),
    ):
        torch.testing.assert_close(getattr(ours, name).double(), table, rtol=1e-6, atol=1e-7)


def draws(random: StepRandom) -> plain.Draws:
    shape = (3, 16, 16)
    t, noise, step_noise = random.integers(1, 4), random.normal(shape), random.normal(shape)
    return plain.Draws(t, noise, step_noise, random.normal((5,)), random.normal(shape))


@pytest.mark.parametrize("r1_interval", [1, 2])
def test_two_train_steps_agree(model, make_optimizers, r1_interval):
    model.r1_interval = r1_interval
    reference = trainer(model, {"generator": {}, "discriminator": {}})
    for name in ("generator", "discriminator"):
        network = getattr(reference, name)
        setattr(reference, f"{name[0]}_optimizer", torch.optim.SGD(network.parameters(), lr=0.01))
    optimizers = make_optimizers(model, lr=0.01)
    for iteration in range(2):
        levels = torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8)
        torch.manual_seed(iteration)
        logs = model.train_step({"x": levels}, optimizers)
        torch.manual_seed(iteration)
        random = StepRandom(N, torch.device("cpu"))
        x0 = levels.float() / 127.5 - 1
        with_r1 = iteration % r1_interval == 0
        # The library's average begins as a copy of the generator after the first step.
        reference.ema_decay = 0.9 if iteration else 0.0
        losses = reference.step(x0, draws(random), draws(random), with_r1)
        assert ("r1" in logs) == with_r1
        for name, value in losses.items():
            torch.testing.assert_close(logs[name], value, rtol=1e-4, atol=1e-5)
    for ours, theirs in (
        (model.generator, reference.generator),
        (model.generator_ema, reference.average),
    ):
        expected = dict(theirs.named_parameters())
        for name, value in plain_generator(ours).named_parameters():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)
    expected = dict(reference.discriminator.named_parameters())
    for name, value in plain_discriminator(model.discriminator).named_parameters():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


@pytest.fixture
def make_optimizers():
    def make(model, lr):
        entry = {"optimizer": {"type": "SGD", "lr": lr}}
        return build_optim_wrappers(
            {
                "constructor": "PerNetworkOptimWrapperConstructor",
                "generator": entry,
                "discriminator": copy.deepcopy(entry),
            },
            model,
        )

    return make


def test_samples_are_images(model):
    torch.manual_seed(0)
    generator = plain_generator(model.generator)
    out = plain.sample(generator, plain.Process(4), torch.randn(N, 3, 16, 16), 5)
    assert out.shape == (N, 3, 16, 16)
    assert out.dtype == torch.uint8
    assert out.float().std() > 10

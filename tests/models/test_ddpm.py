"""DDPM: its loss written out, and sampling against ancestral sampling and a known score."""

import itertools
import math
from functools import partial

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from ddgan.diffusion import SampleNoise, ancestral
from ddgan.models import DDPM
from ddgan.networks import MLPGenerator, NCSNpp

from .toy import batch


class ExactNoise(nn.Module):
    """E[ε | x_t] for data N(mean, std²), in closed form, with one weight for the device."""

    latent_dim = 0
    data_shape = (1,)

    def __init__(self, diffusion, mean, std):
        super().__init__()
        self.alpha_bar, self.mean, self.std = diffusion.alpha_bar, mean, std
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x_t, t):
        alpha_bar = self.alpha_bar[t + 1][:, None]
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * self.mean) / variance


def build(network=None, **kwargs):
    torch.manual_seed(1)
    arguments = {"diffusion": {"num_steps": 40}, **kwargs}
    if network is None:
        network = MLPGenerator(arguments["diffusion"]["num_steps"], latent_dim=0, hidden_dim=16)
    return DDPM(network, data_preprocessor={"type": "PointPreprocessor"}, **arguments)


def adam(model, lr=1e-3):
    optimizer = torch.optim.Adam(model.generator.parameters(), lr=lr)
    return OptimWrapperDict(generator=OptimWrapper(optimizer))


def test_the_loss_is_the_mean_squared_error_of_the_noise():
    model = build()
    x = batch(32)["x"]
    torch.manual_seed(7)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    draws = torch.Generator().manual_seed(seed)
    t = torch.empty(32, dtype=torch.int64).random_(1, 41, generator=draws)
    eps = torch.empty(32, 2).normal_(generator=draws)
    a = model.diffusion.alpha_bar[t, None]
    expected = (model.generator(a.sqrt() * x + (1 - a).sqrt() * eps, t - 1) - eps).pow(2).mean()
    torch.manual_seed(7)
    logs = model.train_step({"x": x}, adam(model))
    assert logs["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (model.iteration, model.ema.updates, model.images_seen) == (1, 1, 32)


@pytest.mark.parametrize("clip", [False, True])
def test_ddpm_sampling_is_the_ancestral_chain(clip):
    """Ho et al., Algorithm 2, from the posterior's tables and the streams of noise."""
    model = build(clip=clip)
    noise, d = SampleNoise(5, torch.arange(6)), model.diffusion

    def step(x_t, t):
        steps = torch.full((6,), t)
        x0 = d.predict_x0(x_t, steps, model.generator_ema(x_t, steps - 1))
        x0 = x0.clamp(-1, 1) if clip else x0
        return d.posterior_sample(x0, x_t, steps, noise.normal(t, (2,)))

    expected = ancestral(step, noise.normal(0, (2,)), 40)
    torch.testing.assert_close(model.sample(6, seed=5), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "evaluations"),
    [
        ({}, 40),
        ({"sampler": "ddim"}, 40),
        ({"sampler": "ddim", "sampling_steps": 10}, 10),
        ({"sampler": "ddim", "sampling_steps": 10, "eta": 0.5, "spacing": "quadratic"}, 10),
        ({"sampler": "ddpm", "sampling_steps": 20}, 20),
        ({"variance": "fixedlarge"}, 40),
        ({"variance": "fixedlarge", "sampling_steps": 20}, 20),
    ],
)
def test_every_sampler_moves_a_gaussian_as_computed(arguments, evaluations):
    """With the exact noise of N(0.6, 0.5²) a step is linear: mean and variance follow by hand."""
    model = build(**arguments)
    d, eta = model.diffusion, {"ddim": arguments.get("eta", 0.0)}.get(arguments.get("sampler"), 1.0)
    model = build(ExactNoise(d, 0.6, 0.5), **arguments)
    calls = []
    model.generator_ema.register_forward_hook(lambda *_: calls.append(1))
    samples = model.sample(4000, batch_size=4000)
    assert len(calls) == model.num_evaluations == evaluations

    bar, mean, variance = d.alpha_bar.double().tolist(), 0.0, 1.0
    for t, s in itertools.pairwise([*reversed(model.times), 0]):
        sigma = eta * math.sqrt((1 - bar[s]) / (1 - bar[t]) * (1 - bar[t] / bar[s]))
        # ε = slope (x - √ᾱ_t 0.6), and x_s = ratio x_t + change ε + σ noise.
        slope = math.sqrt(1 - bar[t]) / (bar[t] * 0.25 + 1 - bar[t])
        ratio = math.sqrt(bar[s] / bar[t])
        change = math.sqrt(1 - bar[s] - sigma**2) - ratio * math.sqrt(1 - bar[t])
        mean = ratio * mean + change * slope * (mean - math.sqrt(bar[t]) * 0.6)
        if arguments.get("variance") == "fixedlarge":
            sigma = math.sqrt(1 - bar[t] / bar[s]) if s else 0.0
        variance = (ratio + change * slope) ** 2 * variance + sigma**2
    assert samples.mean().item() == pytest.approx(mean, abs=0.025)
    assert samples.std().item() == pytest.approx(math.sqrt(variance), abs=0.02)
    # All of them come near to the data, more steps nearer.
    assert (mean, math.sqrt(variance)) == pytest.approx((0.6, 0.5), abs=0.15)


def test_fixedlarge_is_beta_and_fixedsmall_the_posteriors_variance():
    """The two choices of Ho et al., Sec. 3.2, with the same mean."""
    model = build()
    d, spread = model.diffusion, {}
    for variance in ("fixedsmall", "fixedlarge"):
        model.set_sampler("ddpm", variance=variance)
        states = []
        noise = SampleNoise(0, torch.arange(4000))
        keep = partial(lambda states, t, x: states.append(x), states)
        model.draw(noise, lambda x, t: torch.zeros_like(x), keep)
        # From t = 5 to 4; with ε = 0 a step is x_s = x_t √(ᾱ_s / ᾱ_t) and noise.
        step = states[-5] - states[-6] * (d.alpha_bar[4] / d.alpha_bar[5]).sqrt()
        spread[variance] = step.var().item()
    assert spread["fixedsmall"] == pytest.approx(d.posterior_variance[4].item(), rel=0.04)
    assert spread["fixedlarge"] == pytest.approx(d.betas[4].item(), rel=0.04)
    assert spread["fixedlarge"] > 1.1 * spread["fixedsmall"]


def test_heun_follows_the_probability_flow_more_closely_than_ddim():
    """The flow of a Gaussian is linear: x_0 = std x_T / √(ᾱ_T std² + 1 - ᾱ_T)."""
    errors = {}
    for sampler, steps in (("ddim", 19), ("heun", 10)):
        model = build(sampler=sampler, sampling_steps=steps, spacing="quadratic")
        model = build(
            ExactNoise(model.diffusion, 0.0, 0.5),
            sampler=sampler,
            sampling_steps=steps,
            spacing="quadratic",
        )
        calls = []
        model.generator_ema.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        x_T = SampleNoise(0, torch.arange(50)).normal(0, (1,))
        last = model.diffusion.alpha_bar[40]
        expected = 0.5 * x_T / (last * 0.25 + 1 - last).sqrt()
        errors[sampler] = (model.sample(50) - expected).abs().max().item()
        assert len(calls) == model.num_evaluations == 19
    assert errors["heun"] < 0.6 * errors["ddim"]


def test_ddim_is_a_function_of_its_start():
    """With η = 0 fresh noise is never drawn; with η > 0 and for DDPM it is."""
    for arguments, streams in (
        ({"sampler": "ddim", "sampling_steps": 5}, {0}),
        ({"sampler": "ddim", "sampling_steps": 5, "eta": 0.2}, {0, 16, 24, 32, 40}),
        ({"sampling_steps": 5}, {0, 16, 24, 32, 40}),
    ):
        asked = []

        class Listening(SampleNoise):
            def normal(self, stream, shape, asked=asked):
                asked.append(stream)
                return super().normal(stream, shape)

        model = build(**arguments)
        model.draw(Listening(0, torch.arange(3)), model.generator_ema)
        assert set(asked) == streams


def test_the_sampler_can_be_changed_after_training():
    model, other = build(), build(sampler="ddim", sampling_steps=7, eta=0.3, spacing="quadratic")
    other.load_state_dict(model.state_dict())
    model.set_sampler("ddim", 7, "quadratic", 0.3)
    assert model.num_evaluations == 7
    assert torch.equal(model.sample(4), other.sample(4))
    with pytest.raises(ValueError, match="0 sampling steps"):
        model.set_sampler("ddpm", 0)


def test_samples_depend_on_seed_and_index_alone():
    model = build()
    full = model.sample(9, seed=2)
    torch.testing.assert_close(model.sample(9, seed=2, batch_size=4), full)
    torch.testing.assert_close(model.sample(3, seed=2, first_index=6), full[6:])


def test_the_loss_falls_to_the_best_possible():
    """For data N(0, 0.5²) per coordinate the least loss has a closed form."""
    model = build(diffusion={"num_steps": 8})
    alpha_bar = model.diffusion.alpha_bar[1:]
    variance = 0.25 * alpha_bar + 1 - alpha_bar
    best = (1 - (1 - alpha_bar) / variance).mean().item()
    optimizers, losses = adam(model, 5e-3), []
    for i in range(300):
        torch.manual_seed(i)
        losses.append(model.train_step({"x": 0.5 * torch.randn(256, 2)}, optimizers)["loss"].item())
    late = sum(losses[-100:]) / 100
    assert losses[0] > 1.5 * best
    assert best - 0.03 < late < 1.15 * best


def test_ncsnpp_trains_and_samples():
    network = NCSNpp(8, base_channels=8, channel_multipliers=(1, 2), num_res_blocks=1,
                     latent_dim=0, tanh=False)  # fmt: skip
    model = DDPM(network, {"num_steps": 4}, clip=True)
    x = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert model.train_step({"x": x}, adam(model))["loss"].item() == pytest.approx(1, abs=0.3)
    samples = model.sample(3)
    assert samples.shape == (3, 3, 8, 8)
    assert samples.dtype == torch.uint8


def test_time_as_sines_tells_steps_apart():
    network = MLPGenerator(1000, latent_dim=0, hidden_dim=8, time_embedding_dim=16)
    assert network.hidden[0].in_features == 2 + 16
    seen = []
    network.hidden.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 2:]))
    network(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert seen[0][1, 0].item() == pytest.approx(math.sin(1))
    assert (seen[0][0] - seen[0][1]).norm() > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "x"}, "sampler is 'x'"),
        ({"sampler": "ddim", "eta": 1.5}, r"eta is 1\.5"),
        ({"eta": 0.5}, r"eta is 0\.5.*'ddpm', which has no eta"),
        ({"sampling_steps": 41}, "41 sampling steps; expected 1 to 40"),
        ({"spacing": "x"}, "spacing is 'x'"),
        ({"network": MLPGenerator(4, hidden_dim=4)}, "latent_dim=2"),
        ({"network": MLPGenerator(4, hidden_dim=4, latent_dim=0, tanh=True)}, "bounded output"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)

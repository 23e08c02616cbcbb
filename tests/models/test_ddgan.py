"""The train step against a second writing of it, and the properties of sampling."""

import copy

import pytest
import torch
import torch.nn.functional as F

from ddgan.diffusion import SampleNoise
from ddgan.models.rng import StepRandom

from .toy import batch, sgd, toy_model


class Replay:
    """The draws of a train step, as StepRandom makes them for one process."""

    def __init__(self, n):
        self.n = n
        seed = int(torch.empty((), dtype=torch.int64).random_())
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self):
        return torch.empty(self.n, 2).normal_(generator=self.generator)

    def t(self):
        return torch.empty(self.n, dtype=torch.int64).random_(1, 5, generator=self.generator)


def posterior_sample(model, x0, x_t, t, noise):
    d = model.diffusion
    i = t - 1
    mean = d.posterior_mean_coef1[i, None] * x0 + d.posterior_mean_coef2[i, None] * x_t
    return mean + d.posterior_variance[i, None].sqrt() * noise


def reference_step(model, x0, lr, with_r1):
    """The release's order of things: three backward passes for D, then G on fresh draws."""
    G, D, d = model.generator, model.discriminator, model.diffusion
    draws = Replay(len(x0))

    def pair():
        t = draws.t()
        a, s = d.alpha_bar.sqrt(), (1 - d.alpha_bar).sqrt()
        x_prev = a[t - 1, None] * x0 + s[t - 1, None] * draws.normal()
        beta = d.betas[t - 1, None]
        return t, x_prev, (1 - beta).sqrt() * x_prev + beta.sqrt() * draws.normal()

    def fake(t, x_t):
        z = draws.normal()
        return posterior_sample(model, G(x_t, t - 1, z), x_t, t, draws.normal())

    t, x_prev, x_t = pair()
    x_prev.requires_grad_()
    real = D(x_prev, t - 1, x_t)
    d_real = F.softplus(-real).mean()
    d_real.backward(retain_graph=True)
    if with_r1:
        (grad,) = torch.autograd.grad(real.sum(), x_prev, create_graph=True)
        (model.r1_gamma / 2 * grad.pow(2).sum(1).mean()).backward()
    d_fake = F.softplus(D(fake(t, x_t), t - 1, x_t)).mean()
    d_fake.backward()
    with torch.no_grad():
        for p in D.parameters():
            p -= lr * p.grad
    G.zero_grad()
    t, _, x_t = pair()
    g_loss = F.softplus(-D(fake(t, x_t), t - 1, x_t)).mean()
    g_loss.backward()
    with torch.no_grad():
        for p in G.parameters():
            p -= lr * p.grad
    return (d_real + d_fake).item(), g_loss.item()


@pytest.mark.parametrize("iteration", [0, 1, 3])
def test_train_step_is_the_release_s_step(iteration):
    model = toy_model(r1_interval=3)
    model.iteration = iteration
    other = copy.deepcopy(model)
    data = batch()

    torch.manual_seed(5)
    logs = model.train_step(data, sgd(model))
    torch.manual_seed(5)
    d_loss, g_loss = reference_step(other, data["x"], 0.1, with_r1=iteration % 3 == 0)

    assert logs["d_loss"].item() == pytest.approx(d_loss, rel=1e-6)
    assert logs["g_loss"].item() == pytest.approx(g_loss, rel=1e-6)
    assert ("r1" in logs) == (iteration % 3 == 0)
    for name in ("generator", "discriminator"):
        expected = dict(getattr(other, name).named_parameters())
        for key, value in getattr(model, name).named_parameters():
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-7)


def test_no_gradient_is_left_behind_or_wasted():
    model = toy_model()
    x0 = batch()["x"]
    loss, _ = model.discriminator_loss(x0, StepRandom(len(x0), x0.device))
    loss.backward()
    assert all(p.grad is None for p in model.generator.parameters())
    model = toy_model()
    model.train_step(batch(), sgd(model))
    assert all(p.requires_grad for p in model.discriminator.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_r1_can_be_switched_off():
    model = toy_model(r1_gamma=0.0)
    assert "r1" not in model.train_step(batch(), sgd(model))


def test_loss_per_step_averages_to_the_loss():
    model = toy_model()
    logs = model.train_step(batch(4096), sgd(model))
    assert logs["d_loss_step"].shape == (4,)
    assert logs["d_loss_step"].mean().item() == pytest.approx(logs["d_loss"].item(), abs=0.05)


def test_average_follows_the_generator():
    """The first update copies; later ones are decay · average + (1 - decay) · current."""
    model = toy_model(ema_decay=0.75)
    optimizers = sgd(model)
    expected = None
    for seed in range(4):
        torch.manual_seed(seed)
        model.train_step(batch(seed=seed), optimizers)
        current = model.generator.a.item()
        expected = current if expected is None else 0.75 * expected + 0.25 * current
        assert model.generator_ema.a.item() == pytest.approx(expected, rel=1e-6)
    assert not any(p.requires_grad for p in model.generator_ema.parameters())


def test_warm_up_of_the_average():
    model = toy_model(ema_decay=0.999, ema_warmup=True)
    with torch.no_grad():
        model.generator.a.fill_(0.0)
        model.update_ema()
        model.generator.a.fill_(1.0)
        model.update_ema()
    assert model.generator_ema.a.item() == pytest.approx(1 - 2 / 11)


def test_counters_are_part_of_the_state():
    model = toy_model()
    for _ in range(3):
        model.train_step(batch(), sgd(model))
    other = toy_model()
    other.load_state_dict(model.state_dict())
    assert (other.iteration, other.ema.updates) == (3, 3)


def test_sample_depends_on_seed_and_index_alone():
    model = toy_model()
    full = model.sample(23, seed=3)
    assert full.shape == (23, 2)
    for batch_size in (1, 5, 23, 100):
        torch.testing.assert_close(model.sample(23, seed=3, batch_size=batch_size), full)
    torch.testing.assert_close(model.sample(6, seed=3, first_index=11), full[11:17])
    assert not torch.allclose(model.sample(23, seed=4), full)
    assert model.sample(0).shape == (0, 2)
    assert torch.equal(torch.get_rng_state(), (model.sample(3), torch.get_rng_state())[1])


def test_sample_is_the_ancestral_chain():
    """Sampling written out with the streams of noise that the model documents."""
    model = toy_model()
    indices = torch.arange(7)
    noise = SampleNoise(9, indices)
    x = noise.normal(0, (2,))
    for t in (4, 3, 2, 1):
        steps = torch.full((7,), t)
        x0 = model.generator_ema(x, steps - 1, noise.normal(2 * t, (2,)))
        x = posterior_sample(model, x0, x, steps, noise.normal(2 * t + 1, (2,)))
    torch.testing.assert_close(model.sample(7, seed=9), x)


def test_sample_uses_the_average_unless_told_otherwise():
    model = toy_model()
    with torch.no_grad():
        model.generator.a.fill_(2.0)
    ema, raw = model.sample(4), model.sample(4, use_ema=False)
    assert not torch.allclose(ema, raw)


@pytest.mark.parametrize("parametrization", ["posterior", "direct", "noise"])
def test_parametrizations_train_and_sample(parametrization):
    model = toy_model(parametrization=parametrization)
    logs = model.train_step(batch(), sgd(model))
    assert logs["g_loss"].isfinite()
    assert model.sample(3).isfinite().all()
    assert model.draw_x0(torch.zeros(5, 2), t=3).shape == (5, 2)


def test_draws_of_x0_vary_with_the_latent_only():
    x_t = torch.zeros(6, 2)
    assert toy_model().draw_x0(x_t, t=3).var(0).min() > 0
    assert toy_model(latent_dim=0).draw_x0(x_t, t=3).var(0).max() == 0


@pytest.mark.parametrize("num_steps", [1, 2, 8])
def test_other_numbers_of_steps(num_steps):
    model = toy_model(diffusion={"num_steps": num_steps})
    with torch.no_grad():
        model.discriminator.offset = torch.nn.Parameter(torch.zeros(num_steps))
    assert model.train_step(batch(), sgd(model))["d_loss_step"].shape == (num_steps,)
    assert model.sample(2).shape == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"r1_interval": 0}, "r1_interval is 0"),
        ({"r1_gamma": -1}, "r1_gamma is -1"),
        ({"parametrization": "x"}, "'x'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        toy_model(**arguments)


def test_bad_sample_arguments():
    with pytest.raises(ValueError, match="n is -1"):
        toy_model().sample(-1)


def test_images_leave_as_rounded_uint8():
    model = toy_model(data_preprocessor={"type": "ImagePreprocessor"})
    x = torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.2]).reshape(1, 1, 1, 5)
    assert model.to_output(x).flatten().tolist() == [0, 0, 128, 255, 255]
    levels = torch.arange(256, dtype=torch.uint8)
    back = (levels.float() / 127.5 - 1).reshape(1, 1, 16, 16)
    assert torch.equal(model.to_output(back).flatten(), levels)


def test_sampling_evaluates_and_leaves_the_mode_as_it_was_even_if_it_fails():
    model, modes = toy_model().train(), []
    model.generator_ema.register_forward_hook(lambda net, *_: modes.append(net.training))
    model.sample(2)
    assert set(modes) == {False}
    assert model.generator_ema.training

    def fail(count: int) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        model.sample(2, progress=fail)
    assert model.generator_ema.training
    model.eval().sample(2)
    assert not model.generator_ema.training

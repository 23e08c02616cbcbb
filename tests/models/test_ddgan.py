"""Properties of DDGAN's train step and of sampling; tests/reference compares whole steps."""

import pytest
import torch

from ddgan.diffusion import SampleNoise
from ddgan.models.rng import StepRandom

from .toy import batch, sgd, toy_model


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


def previous(d, parametrization, output, x, t, noise):
    """x_{t-1} from the generator's output, written out (Eqs. 6, 11 and 13)."""
    if parametrization == "direct":
        return output
    x0 = x0_of(d, parametrization, output, x, t)
    a, a_prev, beta = d.alpha_bar[t], d.alpha_bar[t - 1], d.betas[t - 1]
    mean = a_prev.sqrt() * beta / (1 - a) * x0 + (1 - beta).sqrt() * (1 - a_prev) / (1 - a) * x
    return mean + ((1 - a_prev) / (1 - a) * beta).sqrt() * noise


def x0_of(d, parametrization, output, x, t):
    a = d.alpha_bar[t]
    return (x - (1 - a).sqrt() * output) / a.sqrt() if parametrization == "noise" else output


@pytest.mark.parametrize("parametrization", ["posterior", "direct", "noise"])
def test_sampling_is_the_ancestral_chain(parametrization):
    """Written out with the streams of noise that the model documents, also from amid the chain."""
    model = toy_model(parametrization=parametrization)
    d, noise = model.diffusion, SampleNoise(9, torch.arange(7))
    x = {4: noise.normal(0, (2,))}
    outputs = {}
    for t in (4, 3, 2, 1):
        index = torch.full((7,), t - 1)
        outputs[t] = model.generator_ema(x[t], index, noise.normal(2 * t, (2,)))
        fresh = noise.normal(2 * t + 1, (2,))
        x[t - 1] = previous(d, parametrization, outputs[t], x[t], t, fresh)
    torch.testing.assert_close(model.sample(7, seed=9), x[0], rtol=1e-4, atol=1e-4)
    for t in (4, 2, 1):
        # Direct denoising has no x_0 before the last step.
        direct = parametrization == "direct"
        expected = x[0] if direct else x0_of(d, parametrization, outputs[t], x[t], t)
        torch.testing.assert_close(model.draw_x0(x[t], t, seed=9), expected, rtol=1e-4, atol=1e-4)


def test_sample_uses_the_average_unless_told_otherwise():
    model = toy_model()
    with torch.no_grad():
        model.generator.a.fill_(2.0)
    ema, raw = model.sample(4), model.sample(4, use_ema=False)
    assert not torch.allclose(ema, raw)


@pytest.mark.parametrize("parametrization", ["posterior", "direct", "noise"])
def test_the_discriminator_sees_the_parametrization_s_x_prev(parametrization):
    model = toy_model(parametrization=parametrization)
    x_t, z, noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([1, 2, 3, 4])
    x_prev = model.denoise(model.generator, x_t, steps, z, noise)
    outputs = model.generator(x_t, steps - 1, z)
    for i, t in enumerate(steps.tolist()):
        expected = previous(model.diffusion, parametrization, outputs[i], x_t[i], t, noise[i])
        torch.testing.assert_close(x_prev[i], expected, rtol=1e-4, atol=1e-4)


def test_draws_of_x0_vary_with_the_latent_only():
    x_t = torch.zeros(6, 2)
    assert toy_model().draw_x0(x_t, t=3).var(0).min() > 0
    assert toy_model(latent_dim=0).draw_x0(x_t, t=3).var(0).max() < 1e-12


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

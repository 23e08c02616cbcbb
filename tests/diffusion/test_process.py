"""Forward process, posterior and the equivalences of Appendix B."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ddgan.diffusion import Diffusion, get_parametrization

PARITY = Path(__file__).parents[1] / "fixtures" / "parity_tiny16.npz"


def float64_diffusion(num_steps=4, **kwargs):
    return Diffusion(num_steps, dtype=torch.float64, **kwargs)


def test_tables_of_the_official_release():
    parity = np.load(PARITY)
    diffusion = Diffusion(4, time_epsilon=1e-3)
    for name, key in {
        "betas": "post_betas",
        "posterior_mean_coef1": "post_posterior_mean_coef1",
        "posterior_mean_coef2": "post_posterior_mean_coef2",
        "posterior_variance": "post_posterior_variance",
        "sqrt_alpha_bar": "diff_a_s_cum",
        "sqrt_one_minus_alpha_bar": "diff_sigmas_cum",
    }.items():
        np.testing.assert_allclose(
            getattr(diffusion, name).numpy(), parity[key], rtol=2e-7, atol=2e-7
        )
    np.testing.assert_allclose(diffusion.sqrt_alphas.numpy(), parity["diff_a_s"][1:], atol=3e-7)
    np.testing.assert_allclose(diffusion.sqrt_betas.numpy(), parity["diff_sigmas"][1:], atol=3e-7)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8, 1000])
def test_posterior_tables_from_the_definition(num_steps):
    """Eq. 11 recomputed step by step with Python floats."""
    diffusion = float64_diffusion(num_steps)
    betas = diffusion.betas.tolist()
    alpha_bar = 1.0
    for t, beta in enumerate(betas, start=1):
        previous, alpha_bar = alpha_bar, alpha_bar * (1 - beta)
        expected = (
            math.sqrt(previous) * beta / (1 - alpha_bar),
            math.sqrt(1 - beta) * (1 - previous) / (1 - alpha_bar),
            (1 - previous) / (1 - alpha_bar) * beta,
        )
        actual = (
            diffusion.posterior_mean_coef1[t - 1].item(),
            diffusion.posterior_mean_coef2[t - 1].item(),
            diffusion.posterior_variance[t - 1].item(),
        )
        assert actual == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_the_first_step_has_no_noise_left():
    diffusion = float64_diffusion(4)
    x0, x1, noise = torch.randn(3, 5, 2, dtype=torch.float64, generator=torch.manual_seed(0))
    t = torch.ones(5, dtype=torch.int64)
    torch.testing.assert_close(diffusion.posterior_sample(x0, x1, t, noise), x0)
    torch.testing.assert_close(diffusion.q_sample(x0, t - 1, noise), x0)


@pytest.mark.parametrize("t_value", [1, 2, 3, 4])
def test_monte_carlo_moments_of_the_pair_and_the_posterior(t_value):
    """q(x_{t-1} | x_t, x_0) must be the conditional of the pair that the forward process draws."""
    diffusion = float64_diffusion(4)
    n = 200_000
    generator = torch.Generator().manual_seed(t_value)
    t = torch.full((n,), t_value)
    x0 = torch.full((n, 1), 0.7, dtype=torch.float64)
    noise, step_noise = torch.randn(2, n, 1, dtype=torch.float64, generator=generator)
    x_prev, x_t = diffusion.q_sample_pair(x0, t, noise, step_noise)

    alpha_bar = diffusion.alpha_bar
    assert x_t.mean().item() == pytest.approx(0.7 * alpha_bar[t_value].sqrt().item(), abs=0.01)
    assert x_t.var().item() == pytest.approx(1 - alpha_bar[t_value].item(), abs=0.01)
    # The regression of x_{t-1} on x_t has the posterior's coefficients, its residual the variance.
    mean = diffusion.posterior_mean(x0, x_t, t)
    residual = x_prev - mean
    assert residual.mean().item() == pytest.approx(0, abs=0.01)
    assert residual.var().item() == pytest.approx(
        diffusion.posterior_variance[t_value - 1].item(), abs=0.01
    )
    assert (residual * x_t).mean().item() == pytest.approx(0, abs=0.01)
    drawn = diffusion.posterior_sample(x0, x_t, t, torch.randn(n, 1, generator=generator).double())
    assert drawn.var().item() == pytest.approx(x_prev.var().item(), abs=0.01)


@pytest.mark.parametrize("num_steps", [1, 4, 1000])
def test_appendix_b(num_steps):
    """Eq. 13 inverts the forward process; Eqs. 14 and 15 are Eq. 12."""
    diffusion = float64_diffusion(num_steps)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, num_steps, 3, dtype=torch.float64, generator=generator)
    t = torch.arange(1, num_steps + 1)
    x_t = diffusion.q_sample(x0, t, eps)
    torch.testing.assert_close(diffusion.predict_x0(x_t, t, eps), x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        diffusion.posterior_mean_from_noise(x_t, t, eps),
        diffusion.posterior_mean(diffusion.predict_x0(x_t, t, eps), x_t, t),
        rtol=1e-8,
        atol=1e-8,
    )


def test_noise_generation_equals_the_posterior_of_the_predicted_x0():
    diffusion = float64_diffusion(4)
    generator = torch.Generator().manual_seed(1)
    x_t, eps, noise = torch.randn(3, 4, 2, dtype=torch.float64, generator=generator)
    t = torch.tensor([1, 2, 3, 4])
    noise_generation = get_parametrization("noise")
    x0 = noise_generation.x0(diffusion, eps, x_t, t, None)
    posterior = get_parametrization("posterior").x_prev(diffusion, x0, x_t, t, noise)
    torch.testing.assert_close(
        noise_generation.x_prev(diffusion, eps, x_t, t, noise), posterior, rtol=1e-9, atol=1e-9
    )


def test_direct_denoising_returns_the_output_and_never_asks_for_the_posterior(monkeypatch):
    diffusion = Diffusion(4)
    monkeypatch.setattr(Diffusion, "posterior_mean", None)
    output = torch.randn(2, 3)
    direct = get_parametrization("direct")
    assert direct.x_prev(diffusion, output, output, torch.tensor([2, 3]), output) is output
    # Two steps remain from x_{t-1} = output at t = 3.
    assert torch.equal(direct.x0(diffusion, output, output, 3, lambda x, t: x + t), output + 2 + 1)


def test_one_time_for_the_whole_batch_is_the_same_time_for_each_sample():
    diffusion = float64_diffusion(4)
    x0, x_t, noise = torch.randn(3, 5, 2, dtype=torch.float64, generator=torch.manual_seed(0))
    t = torch.full((5,), 3)
    for name in ("posterior_sample", "q_sample_pair"):
        function = getattr(diffusion, name)
        arguments = (x0, x_t, 3, noise) if name == "posterior_sample" else (x0, 3, x_t, noise)
        each = [t if isinstance(argument, int) else argument for argument in arguments]
        torch.testing.assert_close(function(*arguments), function(*each), rtol=0, atol=0)


def test_unknown_parametrization():
    with pytest.raises(ValueError, match="'velocity'"):
        get_parametrization("velocity")


def test_tables_are_not_part_of_the_weights():
    assert not Diffusion(4).state_dict()


def test_empty_batch():
    diffusion = Diffusion(4)
    x = torch.empty(0, 3, 2, 2)
    assert diffusion.posterior_sample(x, x, torch.empty(0, dtype=torch.int64), x).shape == x.shape

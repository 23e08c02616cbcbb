"""Sampling on fewer steps against closed forms, and the mixtures that figures are computed from."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.stats import norm

from ddgan.diffusion import Diffusion, ddim_step, heun_step, linear_betas, sub_steps
from ddgan.visualization.mixture import GaussianMixture, reverse_sde, vp_alpha_bar


def test_linear_betas_are_those_of_ddpm():
    expected = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(linear_betas(1000).numpy(), expected, rtol=1e-12)
    # Fewer, larger steps end in as much noise, about.
    ends = [Diffusion(n, schedule="linear").alpha_bar[-1].item() for n in (100, 1000)]
    assert max(ends) < 1e-4
    with pytest.raises(ValueError, match="here 20: more steps"):
        linear_betas(20)


@pytest.mark.parametrize("spacing", ["linear", "quadratic"])
@pytest.mark.parametrize(("total", "count"), [(1, 1), (100, 1), (100, 7), (100, 100), (1000, 50)])
def test_sub_steps_are_increasing_and_end_at_the_last(total, count, spacing):
    taus = sub_steps(total, count, spacing)
    assert len(taus) == count
    assert taus[-1] == total
    assert taus[0] >= 1
    assert all(a < b for a, b in itertools.pairwise(taus))


def test_quadratic_sub_steps_are_denser_near_the_data():
    assert sub_steps(100, 4) == [25, 50, 75, 100]
    assert sub_steps(100, 4, "quadratic") == [6, 25, 56, 100]
    for arguments in ((10, 0), (10, 11), (10, 5, "cubic")):
        with pytest.raises(ValueError, match="expected"):
            sub_steps(*arguments)


def test_eta_1_is_the_ancestral_step():
    """Song et al. (2021), Sec. 4.1: against DDPM's posterior, computed from other tables."""
    diffusion = Diffusion(20, schedule="vp", dtype=torch.float64)
    x_t, eps, noise = torch.randn(3, 8, 2, dtype=torch.float64)
    for t in (2, 7, 20):
        steps = torch.full((8,), t)
        expected = diffusion.add_posterior_noise(
            diffusion.posterior_mean_from_noise(x_t, steps, eps), steps, noise
        )
        actual = ddim_step(diffusion, x_t, eps, t, t - 1, noise, eta=1.0)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_heuns_method_has_order_two_and_ddim_order_one():
    """On the flow of N(0, 0.5²) from t to t - h, whose solution is known."""
    diffusion = Diffusion(1000, dtype=torch.float64)
    bar = diffusion.alpha_bar
    x = torch.ones(1, 1, dtype=torch.float64)

    def predict(x_t, t):
        return (1 - bar[t]).sqrt() * x_t / (bar[t] * 0.25 + 1 - bar[t])

    def error(step, h, start=600, stop=360):
        y = x
        for t in range(start, stop, -h):
            y = step(y, t, t - h)
        std = [(bar[t] * 0.25 + 1 - bar[t]).sqrt() for t in (stop, start)]
        return (y - std[0] / std[1] * x).abs().item()

    heun = [error(lambda y, t, s: heun_step(diffusion, y, predict, t, s), h) for h in (40, 20)]
    ddim = [
        error(lambda y, t, s: ddim_step(diffusion, y, predict(y, t), t, s), h) for h in (40, 20)
    ]
    assert heun[0] / heun[1] == pytest.approx(4, rel=0.2)
    assert ddim[0] / ddim[1] == pytest.approx(2, rel=0.2)
    assert heun[0] < 0.3 * ddim[0]


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_step_keeps_the_marginal(eta):
    """With the true noise, x_s is distributed as q(x_s | x_0) for any eta and any s < t."""
    diffusion = Diffusion(50, dtype=torch.float64)
    eps, fresh = torch.randn(
        2, 200_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x0 = torch.full_like(eps, 0.7)
    x_t = diffusion.sqrt_alpha_bar[30] * x0 + diffusion.sqrt_one_minus_alpha_bar[30] * eps
    x_s = ddim_step(diffusion, x_t, eps, 30, 12, fresh, eta)
    mean = 0.7 * diffusion.sqrt_alpha_bar[12].item()
    assert x_s.mean().item() == pytest.approx(mean, abs=6e-3)
    std = diffusion.sqrt_one_minus_alpha_bar[12].item()
    assert x_s.std().item() == pytest.approx(std, abs=6e-3)


def test_clipping_bounds_the_prediction_alone():
    diffusion = Diffusion(50, dtype=torch.float64)
    x_t, eps = 3 * torch.randn(2, 64, 1, dtype=torch.float64)
    assert ddim_step(diffusion, x_t, eps, 30, 0, clip=True).abs().max() == 1
    signal, std = diffusion.sqrt_alpha_bar, diffusion.sqrt_one_minus_alpha_bar
    clipped = ((x_t - std[30] * eps) / signal[30]).clamp(-1, 1)
    implied = (x_t - signal[30] * clipped) / std[30]
    expected = signal[20] * clipped + std[20] * implied
    torch.testing.assert_close(ddim_step(diffusion, x_t, eps, 30, 20, clip=True), expected)


MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [0.8]]), torch.tensor([0.04, 0.09])
)


def data_density(x):
    return 0.3 * norm.pdf(x, -1.0, 0.2) + 0.7 * norm.pdf(x, 0.8, 0.3)


def test_the_diffused_density_against_quadrature():
    for alpha_bar in (0.9, 0.5, 0.05):
        a, s = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
        for x in (-1.2, 0.1, 0.9):
            integrand = lambda x0: data_density(x0) * norm.pdf(x, a * x0, s)  # noqa: B023, E731
            expected, _ = integrate.quad(integrand, -4, 4, points=[-1, 0.8], epsabs=1e-12)
            actual = MIXTURE.diffused(alpha_bar).density(torch.tensor([[x]]))
            assert actual.item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("bar_s", "bar_t"), [(1.0, 0.3), (0.8, 0.3), (0.35, 0.3)])
def test_the_denoising_distribution_against_bayes_rule_by_quadrature(bar_s, bar_t):
    """q(x_s | x_t) from a grid of q(x_t | x_s) q(x_s), normalised numerically."""
    x_t, grid = 0.2, np.linspace(-5, 5, 20_001)
    a = math.sqrt(bar_s)
    prior = 0.3 * norm.pdf(grid, -a, math.sqrt(bar_s * 0.04 + 1 - bar_s))
    prior += 0.7 * norm.pdf(grid, 0.8 * a, math.sqrt(bar_s * 0.09 + 1 - bar_s))
    joint = prior * norm.pdf(x_t, math.sqrt(bar_t / bar_s) * grid, math.sqrt(1 - bar_t / bar_s))
    expected = joint / integrate.trapezoid(joint, grid)
    true = MIXTURE.denoising(torch.tensor([x_t]), bar_s, bar_t)
    actual = true.density(torch.from_numpy(grid)[:, None]).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)
    mean, variance = true.mean_and_variance()
    assert mean.item() == pytest.approx(integrate.trapezoid(grid * expected, grid), rel=1e-6)
    second = integrate.trapezoid((grid - mean.item()) ** 2 * expected, grid)
    assert variance.item() == pytest.approx(second, rel=1e-6)


def test_denoising_goes_to_less_noise():
    with pytest.raises(ValueError, match=r"alpha_bar_s is 0\.2 and alpha_bar_t 0\.3"):
        MIXTURE.denoising(torch.zeros(1), 0.2, 0.3)
    with pytest.raises(ValueError, match=r"expected \(K,\), \(K, D\) and \(K,\)"):
        GaussianMixture(torch.ones(1), torch.zeros(2, 1), torch.ones(1))


def test_the_score_is_the_gradient_of_the_log_density():
    mixture = GaussianMixture(torch.tensor([0.4, 0.6]), torch.randn(2, 3), torch.tensor([0.2, 0.5]))
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(mixture.density(x).log().sum(), x)
    torch.testing.assert_close(mixture.score(x.detach()), expected)


def test_the_reverse_sde_ends_at_the_data():
    """Monte Carlo with the exact score: weights, means and spread of the two modes."""
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(6000, 1, generator=generator, dtype=torch.float64)
    states = reverse_sde(MIXTURE, x_T, 300, generator)
    assert states.shape == (301, 6000, 1)
    assert torch.equal(states[0], x_T)
    left = states[-1][states[-1] < -0.2]
    right = states[-1][states[-1] >= -0.2]
    assert len(left) / 6000 == pytest.approx(0.3, abs=0.03)
    assert left.mean().item() == pytest.approx(-1.0, abs=0.03)
    assert right.mean().item() == pytest.approx(0.8, abs=0.03)
    assert right.std().item() == pytest.approx(0.3, abs=0.04)
    # Half way, the states are those of the forward process.
    middle = MIXTURE.diffused(vp_alpha_bar(0.5)).mean_and_variance()[1].sqrt().item()
    assert states[150].std().item() == pytest.approx(middle, abs=0.04)


def test_samples_of_a_mixture():
    points = MIXTURE.sample(20_000, torch.Generator().manual_seed(0))
    mean, variance = MIXTURE.mean_and_variance()
    assert points.mean().item() == pytest.approx(mean.item(), abs=0.02)
    assert points.var().item() == pytest.approx(variance.item(), abs=0.02)

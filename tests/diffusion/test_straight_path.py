"""The straight path and the ends of the forward SDEs."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ddgan.diffusion import StraightPath, vp_variance


def moments_by_integration(sde, beta_min=0.1, beta_max=20.0, sigma_min=0.01, sigma_max=50.0):
    """The mean coefficient and variance at SDE time 1, from the ODEs of the SDE's moments."""

    def derivative(s, moments):
        mean, variance = moments
        beta = beta_min + s * (beta_max - beta_min)
        integral = beta_min * s + s**2 * (beta_max - beta_min) / 2
        if sde == "ve":
            sigma = sigma_min * (sigma_max / sigma_min) ** s
            return [0.0, 2 * sigma**2 * math.log(sigma_max / sigma_min)]
        diffusion = beta * (1 - math.exp(-2 * integral)) if sde == "subvp" else beta
        return [-beta / 2 * mean, -beta * variance + diffusion]

    solution = solve_ivp(derivative, (0, 1), [1.0, 0.0], rtol=1e-10, atol=1e-12, method="DOP853")
    return solution.y[:, -1]


@pytest.mark.parametrize("sde", ["vp", "subvp", "ve"])
def test_ends_solve_the_moment_equations(sde):
    path = StraightPath(sde)
    mean, variance = moments_by_integration(sde)
    assert path.mean_coef == pytest.approx(mean, rel=1e-7)
    assert path.std**2 == pytest.approx(variance, rel=1e-8)


def test_variance_preserving_end_is_that_of_the_schedule():
    path = StraightPath("vp", beta_min=0.3, beta_max=7.0)
    variance = vp_variance(torch.tensor(1.0, dtype=torch.float64), 0.3, 7.0).item()
    assert path.std == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert path.mean_coef**2 + path.std**2 == pytest.approx(1, rel=1e-12)
    # App. B of Song et al.: the customary schedule leaves 0.66 % of the data.
    assert StraightPath().mean_coef == pytest.approx(0.00657, abs=5e-6)


@pytest.mark.parametrize("sde", ["vp", "subvp"])
def test_end_by_simulating_the_sde(sde):
    """Euler-Maruyama with small steps; a slow schedule, so that the data has not vanished."""
    beta_min, beta_max, x0, steps = 0.2, 1.4, 1.5, 200
    random = np.random.default_rng(0)
    x = np.full(40_000, x0)
    for s in (np.arange(steps) + 0.5) / steps:
        beta = beta_min + s * (beta_max - beta_min)
        integral = beta_min * s + s**2 * (beta_max - beta_min) / 2
        g2 = beta * (1 - math.exp(-2 * integral)) if sde == "subvp" else beta
        x += -beta / 2 * x / steps + math.sqrt(g2 / steps) * random.standard_normal(x.size)
    path = StraightPath(sde, beta_min, beta_max)
    assert x.mean() == pytest.approx(path.mean_coef * x0, abs=4 * x.std() / 200)
    assert x.std() == pytest.approx(path.std, rel=0.02)


@pytest.mark.parametrize("sde", ["vp", "subvp", "ve"])
def test_moments_along_the_path(sde):
    """i(t) has mean (t + (1 - t) m) E x_0 and the variance of two independent parts."""
    path = StraightPath(sde, beta_min=0.1, beta_max=2.0, sigma_max=3.0)
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    x0 = 0.3 + 0.5 * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    x_T = path.x_T(x0, torch.randn(n, 1, generator=generator, dtype=torch.float64))
    for t in (0.0, 0.25, 0.8):
        i = path.interpolate(x0, x_T, t)
        coefficient = t + (1 - t) * path.mean_coef
        variance = coefficient**2 * 0.25 + (1 - t) ** 2 * path.std**2
        assert i.mean().item() == pytest.approx(0.3 * coefficient, abs=5 * math.sqrt(variance / n))
        assert i.var().item() == pytest.approx(variance, rel=0.02)


def test_prior_is_the_end_without_its_data():
    assert StraightPath("vp").prior_std == StraightPath("subvp").prior_std == 1
    assert StraightPath("ve", sigma_max=348.0).prior_std == 348
    for sde in ("vp", "subvp", "ve"):
        path = StraightPath(sde)
        assert path.std == pytest.approx(path.prior_std, rel=1e-4)


def test_path_is_straight_and_has_the_data_at_its_end():
    path = StraightPath()
    x0, x_T = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(path.interpolate(x0, x_T, torch.tensor(1.0)), x0)
    assert torch.equal(path.interpolate(x0, x_T, 0.0), x_T)
    t = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)
    per_sample = path.interpolate(x0, x_T, t)
    for k in range(4):
        torch.testing.assert_close(per_sample[k], x_T[k] + t[k] * (x0[k] - x_T[k]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sde": "vq"}, "sde is 'vq'; expected one of"),
        ({"beta_min": 3.0, "beta_max": 2.0}, "beta_min is 3.0"),
        ({"beta_min": 0.0, "beta_max": 0.0}, "above 0"),
        ({"sigma_min": 0.0}, "sigma_min is 0.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        StraightPath(**arguments)

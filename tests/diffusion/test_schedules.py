"""The tables against closed forms in float64 (mpmath-free: written out with math)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddgan.diffusion import Diffusion, geometric_betas, vp_betas, vp_variance

# DDGAN Eq. 16 with T = 4, and what the official release computes (to the digits it was printed).
PAPER_T4 = [0.47632, 0.84902, 0.95647, 0.98745]
RELEASE_T4 = [0.47825530, 0.84920603, 0.95641768, 0.98740393]
RELEASE_T2 = [0.92132401, 0.99945104]


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8, 100, 1000])
def test_vp_betas_are_equation_16(num_steps):
    b_min, b_max, T = 0.1, 20.0, num_steps
    expected = [
        1 - math.exp(-b_min / T - 0.5 * (b_max - b_min) * (2 * t - 1) / T**2)
        for t in range(1, T + 1)
    ]
    betas = vp_betas(T, b_min, b_max)
    torch.testing.assert_close(
        betas, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0
    )


def test_vp_betas_have_the_published_values():
    assert vp_betas(4).tolist() == pytest.approx(PAPER_T4, abs=5e-6)
    assert vp_betas(4, time_epsilon=1e-3).tolist() == pytest.approx(RELEASE_T4, abs=5e-8)
    assert vp_betas(2, time_epsilon=1e-3).tolist() == pytest.approx(RELEASE_T2, abs=5e-8)
    assert vp_betas(1, time_epsilon=1e-3).tolist() == pytest.approx([0.99995679], abs=5e-8)


@pytest.mark.parametrize("num_steps", [1, 4, 1000])
def test_alpha_bar_is_the_variance_function(num_steps):
    diffusion = Diffusion(num_steps, dtype=torch.float64)
    time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    torch.testing.assert_close(1 - diffusion.alpha_bar, vp_variance(time), rtol=1e-9, atol=1e-15)


@given(
    num_steps=st.integers(1, 1000),
    low=st.floats(1e-6, 0.4),
    high=st.floats(0.5, 0.99999),
)
def test_geometric_schedule_is_valid_and_geometric(num_steps, low, high):
    betas = geometric_betas(num_steps, low, high)
    assert ((betas > 0) & (betas < 1)).all()
    # Relative to the start, where the variance is taken as 0.
    remaining = torch.cumprod(1 - betas, 0) * (1 - low)
    ratio = (high / low) ** (1 / num_steps)
    expected = torch.tensor([low * ratio**t for t in range(1, num_steps + 1)], dtype=torch.float64)
    torch.testing.assert_close(1 - remaining, expected, rtol=1e-6, atol=1e-12)


def test_geometric_defaults_are_valid():
    betas = geometric_betas(4)
    assert ((betas > 0) & (betas < 1)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vp_betas(0), "num_steps is 0"),
        (lambda: vp_betas(1001), "num_steps is 1001"),
        (lambda: vp_betas(4, beta_min=3, beta_max=2), "beta_min is 3"),
        (lambda: vp_betas(4, time_epsilon=1.0), "time_epsilon"),
        (lambda: geometric_betas(4, 0.1, 20.0), "variance_max is 20"),
        (lambda: Diffusion(4, schedule="cosine"), "'cosine'"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddgan.diffusion import Diffusion, SampleNoise, ancestral
from ddgan.diffusion.noise import philox


def test_ancestral_visits_the_steps_in_order():
    calls, seen = [], []

    def step(x, t):
        calls.append(t)
        return x + t

    x = ancestral(step, torch.zeros(1), 4, callback=lambda t, x: seen.append((t, x.item())))
    assert calls == [4, 3, 2, 1]
    assert seen == [(3, 4.0), (2, 7.0), (1, 9.0), (0, 10.0)]
    assert x.item() == 10
    assert ancestral(step, torch.zeros(1), 3, stop_step=1).item() == 5
    assert ancestral(step, torch.ones(1), 0).item() == 1


def test_ancestral_refuses_a_start_below_its_stop():
    with pytest.raises(ValueError, match="start_step is 1"):
        ancestral(lambda x, t: x, torch.zeros(1), 1, stop_step=2)


def test_ancestral_sampling_of_a_gaussian_is_exact():
    """For x_0 ~ N(0, s²) p(x_0 | x_t) is known exactly; T steps with it give back N(0, s²)."""
    diffusion = Diffusion(4, dtype=torch.float64)
    s2, n = 0.25, 200_000
    generator = torch.Generator().manual_seed(0)

    def step(x_t, t):
        a = diffusion.alpha_bar[t]
        gain = s2 * a.sqrt() / (s2 * a + 1 - a)
        variance = s2 * (1 - a) / (s2 * a + 1 - a)
        x0 = gain * x_t + variance.sqrt() * torch.randn(n, 1, generator=generator).double()
        noise = torch.randn(n, 1, generator=generator).double()
        return diffusion.posterior_sample(x0, x_t, torch.full((n,), t), noise)

    a_T = diffusion.alpha_bar[4]
    x_T = torch.randn(n, 1, generator=generator).double() * (s2 * a_T + 1 - a_T).sqrt()
    x0 = ancestral(step, x_T, 4)
    assert x0.mean().item() == pytest.approx(0, abs=0.005)
    assert x0.var().item() == pytest.approx(s2, rel=0.01)


# Known answers of Philox-4x32-10 published with Random123.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    words = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(w) for w in words) == expected


@given(seed=st.integers(0, 2**64 - 1), first=st.integers(0, 2**40), stream=st.integers(0, 2**31))
def test_noise_of_a_sample_does_not_depend_on_its_batch(seed, first, stream):
    together = SampleNoise(seed, torch.arange(first, first + 5)).normal(stream, (3, 2))
    alone = SampleNoise(seed, torch.tensor([first + 3])).normal(stream, (3, 2))
    assert torch.equal(together[3:4], alone)


def test_noise_differs_between_samples_streams_and_seeds():
    indices = torch.arange(3)
    draws = [
        SampleNoise(seed, indices).normal(stream, (5,))
        for seed in (0, 1, 2**32)
        for stream in (0, 1)
    ]
    assert len({tuple(row) for draw in draws for row in draw.tolist()}) == 18


def test_noise_is_standard_normal():
    from scipy import stats

    x = SampleNoise(7, torch.arange(1000)).normal(3, (100,)).numpy()
    assert stats.kstest(x.ravel(), "norm").pvalue > 0.01
    # No correlation between neighbours within a sample, nor between samples.
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < 0.02
    assert abs((x[1:] * x[:-1]).mean()) < 0.02


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_of_more_than_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match=rf"the seed is {seed}; expected a number from 0 to"):
        SampleNoise(seed, torch.arange(2))


def test_noise_of_nothing():
    assert SampleNoise(0, torch.arange(0)).normal(0, (2, 3)).shape == (0, 2, 3)

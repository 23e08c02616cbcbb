"""The 25-Gaussians against the moments that define them, and the counter-based numbers."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import default_collate

from ddgan.data import Gaussians25, collate
from ddgan.data.counter_rng import random_bits, uniform


def points_of(data, count):
    items = data.__getitems__(list(range(count)))
    return torch.stack([i["x"] for i in items]).numpy(), np.array([i["label"] for i in items])


def test_moments():
    data = Gaussians25(num_samples=50_000, seed=3)
    points, modes = points_of(data, 50_000)
    assert points.dtype == np.float32
    assert data.image_shape == (2,)
    assert data.std == pytest.approx(0.05 / 2.8284271247)
    np.testing.assert_allclose(data.centres.std(axis=0), 1.0)
    assert np.abs(data.centres).max() == pytest.approx(4 / 2.8284271247)
    assert stats.chisquare(np.bincount(modes, minlength=25)).pvalue > 1e-4
    noise = (points - data.centres[modes]) / data.std
    assert abs(noise.std() - 1) < 5 / np.sqrt(2 * noise.size)
    for axis in range(2):
        assert stats.kstest(noise[:, axis], "norm").pvalue > 1e-4
    assert abs(np.corrcoef(noise.T)[0, 1]) < 5 / np.sqrt(len(noise))
    # The nearest centre is the mode: they are 40 standard deviations apart.
    nearest = ((points[:, None] - data.centres) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(nearest, modes)


def test_determinism_scale_and_digest():
    data = Gaussians25(seed=1, num_samples=10)
    assert torch.equal(data[4]["x"], Gaussians25(seed=1, num_samples=99)[4]["x"])
    assert not torch.equal(data[4]["x"], Gaussians25(seed=2)[4]["x"])
    unscaled = Gaussians25(seed=1, scale=1.0)
    torch.testing.assert_close(unscaled[4]["x"] / 8**0.5, data[4]["x"])
    np.testing.assert_array_equal(np.unique(unscaled.centres), [-4, -2, 0, 2, 4])
    assert Gaussians25(std=0.0)[0]["x"].numpy().astype(float) == pytest.approx(
        data.centres[Gaussians25(std=0.0)[0]["label"]]
    )
    assert len({Gaussians25(seed=s, std=d).digest() for s in (0, 1) for d in (0.1, 0.2)}) == 4
    with pytest.raises(ValueError, match=r"std is -0\.1"):
        Gaussians25(std=-0.1)


def test_counter_numbers_against_plain_integers():
    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    for seed in (0, 1, 2**31, 2**64 - 1):
        key = mix((seed * golden + 1) % 2**64)
        counter = np.array([0, 1, 12345, 2**40])
        expected = [mix(mix((i * golden + key) % 2**64) ^ key) for i in counter.tolist()]
        assert random_bits(seed, counter).tolist() == expected
    u = uniform(7, np.arange(100_000))
    assert 0 < u.min() < u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    with np.errstate(all="raise"):
        uniform(2**63, np.arange(10))


def test_a_batch_is_that_of_its_items():
    data = Gaussians25(num_samples=20)
    batch, singly = data.__getitems__([3, 19, 3]), [data[3], data[19], data[3]]
    expected = default_collate(singly)
    for got in (collate(batch), collate(singly), default_collate(list(batch))):
        assert list(got) == ["x", "index", "label"]
        for name, value in expected.items():
            assert got[name].dtype == value.dtype
            assert torch.equal(got[name], value)

import numpy as np
import pytest
import scipy.linalg
import torch

from ddgan.evaluation.frechet import (
    FeatureStatistics,
    StatisticsAccumulator,
    feature_statistics,
    frechet_distance,
)
from ddgan.evaluation.pretrained import import_torch_fidelity


def features(n, dim, seed, shift=0.0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) / dim**0.5
    return (rng.normal(size=(n, dim)) @ mixing + 3 + shift).astype(dtype)


def statistics(x):
    x = x.astype(np.float64)
    return x.mean(axis=0), np.cov(x, rowvar=False)


def by_sqrtm(mu1, sigma1, mu2, sigma2):
    """The formula with a matrix root, as pytorch-fid computes it."""
    root = scipy.linalg.sqrtm(sigma1 @ sigma2)
    return float(((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2 - 2 * root.real))


@pytest.mark.parametrize(("n", "tolerance"), [(500, 1e-8), (40, 1e-4)])
def test_agrees_with_a_matrix_root_and_with_torch_fidelity(n, tolerance):
    """With more samples than features, and with fewer: then the covariances have no full rank."""
    one, two = statistics(features(n, 96, 1)), statistics(features(n, 96, 2, shift=0.1))
    distance = frechet_distance(*one, *two)
    assert distance == pytest.approx(by_sqrtm(*one, *two), rel=tolerance)
    import_torch_fidelity()
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    pair = [dict(zip(("mu", "sigma"), s, strict=True)) for s in (one, two)]
    theirs = fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]
    assert distance == pytest.approx(theirs, rel=tolerance)


def test_agrees_with_torchmetrics():
    from torchmetrics.image.fid import _compute_fid

    one, two = statistics(features(300, 32, 3)), statistics(features(300, 32, 4))
    arguments = [torch.from_numpy(v) for v in (*one, *two)]
    assert frechet_distance(*arguments) == pytest.approx(_compute_fid(*arguments).item(), rel=1e-8)


def test_closed_form_of_commuting_covariances():
    """For diagonal covariances a and b it is |mu1 - mu2|² + sum (sqrt a - sqrt b)²."""
    rng = np.random.default_rng(0)
    a, b, mu1, mu2 = rng.uniform(0.1, 4, (4, 20))
    expected = ((mu1 - mu2) ** 2).sum() + ((a**0.5 - b**0.5) ** 2).sum()
    assert frechet_distance(mu1, np.diag(a), mu2, np.diag(b)) == pytest.approx(expected, rel=1e-12)


def test_is_a_squared_distance():
    one, two = statistics(features(200, 16, 5)), statistics(features(200, 16, 6, shift=1))
    assert frechet_distance(*one, *one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(*one, *two) == pytest.approx(frechet_distance(*two, *one), rel=1e-10)


@pytest.mark.parametrize(
    "change", ["shape", "dim", "nan"], ids=["not square", "other dimensions", "not finite"]
)
def test_says_what_does_not_fit(change):
    mu, sigma = np.zeros(3), np.eye(3)
    other = {"shape": np.zeros((3, 2)), "dim": np.eye(4), "nan": np.full((3, 3), np.nan)}[change]
    with pytest.raises(ValueError, match=r"not finite|expected \(D,\), \(D, D\)"):
        frechet_distance(mu, sigma, mu, other)


@pytest.mark.parametrize("sizes", [[700], [1, 699], [0, 350, 2, 348], [100] * 7])
def test_parts_give_the_statistics_of_the_whole(sizes):
    """Far from zero, where sums of squares would lose half of the digits."""
    x = features(700, 24, 7, shift=1000, dtype=np.float64)
    accumulator = StatisticsAccumulator()
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        accumulator.add(part)
    result = accumulator.statistics()
    mean, cov = statistics(x)
    assert isinstance(result, FeatureStatistics)
    assert result.num == 700
    assert result.mean.dtype == result.cov.dtype == torch.float64
    np.testing.assert_allclose(result.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(result.cov, cov, rtol=0, atol=1e-12)


def test_float32_features_have_statistics_in_float64():
    x = features(9000, 8, 8)
    result = feature_statistics(x)
    mean, cov = statistics(x)
    np.testing.assert_allclose(result.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(result.cov, cov, rtol=1e-12)


def test_refuses_what_has_no_covariance():
    accumulator = StatisticsAccumulator()
    accumulator.add(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="at least 2"):
        accumulator.statistics()
    with pytest.raises(ValueError, match=r"expected \(N, 4\)"):
        accumulator.add(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"expected \(N, D\)"):
        StatisticsAccumulator().add(np.zeros(5))

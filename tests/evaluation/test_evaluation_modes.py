"""Mode coverage against scipy's entropy, known mixtures and the expectation of perfect samples."""

import numpy as np
import pytest
import torch
from scipy import stats

from ddgan.data import Gaussians25, StackedDigits
from ddgan.errors import UserError
from ddgan.evaluation import finite_sample_floor, gaussian_mode_coverage, mode_coverage
from ddgan.evaluation.metrics import GaussianModes

RNG = np.random.default_rng


def test_kl_agrees_with_scipy():
    rng = RNG(0)
    q = rng.dirichlet(np.ones(20))
    labels = rng.integers(0, 15, size=500)
    p = np.bincount(labels, minlength=20) / 500
    result = mode_coverage(labels, 20, q)
    assert result.kl == pytest.approx(stats.entropy(p, q), rel=1e-12)
    assert (result.modes, result.num_modes) == (15, 20)
    uniform = mode_coverage(labels, 20)
    assert uniform.kl == pytest.approx(stats.entropy(p, np.full(20, 1 / 20)), rel=1e-12)


def test_collapse_and_balance_are_the_extremes():
    assert mode_coverage(np.full(7, 3), 1000) == (1, pytest.approx(np.log(1000)), 1000)
    assert mode_coverage(np.arange(1000), 1000) == (1000, pytest.approx(0, abs=1e-12), 1000)


def test_order_and_shape_of_the_labels_do_not_matter():
    labels = RNG(1).integers(0, 10, size=60)
    shuffled = RNG(2).permutation(labels).reshape(3, 20).astype(np.uint8)
    assert mode_coverage(labels, 10) == pytest.approx(mode_coverage(shuffled, 10))


def test_sample_where_the_data_have_none_makes_the_kl_infinite():
    assert mode_coverage([0, 1], 2, [1.0, 0.0]).kl == np.inf
    assert mode_coverage([0, 0], 2, [1.0, 0.0]).kl == 0


@pytest.mark.parametrize(
    ("labels", "reference", "error", "message"),
    [
        ([], None, ValueError, "at least one"),
        ([0, 5], None, ValueError, r"\[0, 5\)"),
        ([-1, 2], None, ValueError, r"\[-1, 2\]"),
        ([0.0, 1.0], None, TypeError, "float64"),
        ([0, 1], [0.5, 0.5], ValueError, "5 non-negative"),
        ([0, 1], [0.5, 0.5, 0.5, 0.0, 0.0], ValueError, "sum 1.5"),
        ([0, 1], [1.5, -0.5, 0.0, 0.0, 0.0], ValueError, "non-negative"),
    ],
)
def test_bad_input_is_named(labels, reference, error, message):
    with pytest.raises(error, match=message):
        mode_coverage(np.array(labels), 5, reference)


def test_floor_is_the_mean_kl_of_perfect_samples():
    rng = RNG(3)
    kls = [mode_coverage(rng.integers(0, 50, size=2000), 50).kl for _ in range(300)]
    standard_error = np.std(kls) / np.sqrt(len(kls))
    # The next term of the expansion is below 1 % of the first here.
    floor = finite_sample_floor(2000, 50)
    assert np.mean(kls) == pytest.approx(floor, abs=4 * standard_error + 0.01 * floor)
    assert finite_sample_floor(10_000, 1000) == 0.04995


def test_floor_needs_samples():
    with pytest.raises(ValueError, match="num_samples=0"):
        finite_sample_floor(0, 10)


def test_data_cover_their_own_mixture():
    data = Gaussians25(num_samples=5000, seed=1)
    points = np.stack([item["x"].numpy() for item in data.__getitems__(list(range(5000)))])
    result = gaussian_mode_coverage(points, data.centres, data.std)
    assert (result.modes, result.num_modes) == (25, 25)
    # The radius has a Rayleigh distribution: P(r <= k std) = 1 - exp(-k² / 2).
    assert result.high_quality == pytest.approx(1 - np.exp(-8), abs=0.002)
    one = gaussian_mode_coverage(points, data.centres, data.std, num_stds=1.0)
    assert one.high_quality == pytest.approx(1 - np.exp(-0.5), abs=0.03)
    assert result.kl < 5 * finite_sample_floor(5000, 25)


def test_bad_points_count_for_no_mode():
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = np.array([[0.1, 0.0], [0.0, -0.1], [9.0, 0.0], [5.0, 5.0], [np.nan, 0.0]])
    result = gaussian_mode_coverage(points, centres, std=0.5)
    assert result[:4] == (2, pytest.approx(stats.entropy([2, 1, 0], [1, 1, 1])), 3, 0.6)
    weighted = gaussian_mode_coverage(points, centres, 0.5, reference=[0.5, 0.25, 0.25])
    assert weighted.kl == pytest.approx(stats.entropy([2, 1, 0], [2, 1, 1]))


def test_shares_tell_thin_modes_from_full_ones():
    """Four modes that should have 25 good samples each have 60, 20, 15 and 5."""
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    points = np.concatenate([np.repeat(centres, [60, 20, 15, 5], axis=0), [[4.0, 4.0]] * 10])
    result = gaussian_mode_coverage(points, centres, std=0.5)
    assert result.shares == pytest.approx([60 / 25, 20 / 25, 15 / 25, 5 / 25])
    assert (result.modes, result.modes_with_half, result.modes_with_fifth) == (4, 3, 4)
    assert result.lowest_share == pytest.approx(0.2)
    assert result.high_quality == pytest.approx(100 / 110)
    expected = gaussian_mode_coverage(points, centres, 0.5, reference=[0.6, 0.2, 0.15, 0.05])
    assert expected.shares == pytest.approx([1, 1, 1, 1])


@pytest.mark.parametrize("settings", [{"scale": 1.0}, {"std": 0.1}], ids=str)
def test_the_metric_scores_against_the_data_set_of_the_run(settings):
    data = Gaussians25(num_samples=5000, seed=1, **settings)
    points = torch.stack([item["x"] for item in data.__getitems__(list(range(5000)))])
    metric = GaussianModes()
    of_others = metric(points)
    metric.use_dataset(data)
    values = metric(points)
    assert values["modes"] == values["modes_with_half"] == 25
    assert values["high_quality"] > 0.998 > of_others["high_quality"]
    assert values["lowest_share"] > 0.75
    assert len(values["shares"]) == 25
    with pytest.raises(UserError, match="data set is stackeddigits-train"):
        metric.use_dataset(StackedDigits())


def test_nothing_of_high_quality():
    result = gaussian_mode_coverage(np.full((4, 2), 9.0), np.zeros((1, 2)), std=0.1)
    assert result == (0, np.inf, 1, 0.0, 0.0, 0, 0, [0.0])


@pytest.mark.parametrize("points", [np.zeros((3, 2, 1)), np.zeros((3, 3)), np.zeros((0, 2))])
def test_points_that_do_not_fit(points):
    with pytest.raises(ValueError, match="points"):
        gaussian_mode_coverage(points, np.zeros((5, 2)), std=1.0)

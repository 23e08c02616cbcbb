import numpy as np
import pytest
import torch
from prdc import compute_prdc

from ddgan.errors import UserError
from ddgan.evaluation import feature_statistics, pretrained
from ddgan.evaluation.metrics import (
    DEFAULT_METRICS,
    DensityCoverage,
    FeatureMetric,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    PrecisionRecall,
)
from ddgan.registry import METRICS

SHARES = ("lowest_share", "modes_with_half", "modes_with_fifth")


def features(n, seed, shift=0.0, dim=24):
    generator = torch.Generator().manual_seed(seed)
    return {"features": torch.randn(n, dim, generator=generator) + shift}


def test_names_of_the_command_line():
    built = {name: METRICS.build(config) for name, config in DEFAULT_METRICS.items()}
    *of_features, time, nfe = built
    assert of_features == "fid is kid precision recall density coverage fd_dinov2".split()
    assert (time, nfe) == ("time", "nfe")
    assert all(metric.version for metric in built.values())
    assert all(isinstance(built[name], FeatureMetric) for name in of_features)
    assert DEFAULT_METRICS["precision"] == DEFAULT_METRICS["recall"]
    assert DEFAULT_METRICS["density"] == DEFAULT_METRICS["coverage"]
    assert built["fid"].extractor == {"type": "InceptionExtractor"}
    assert built["fd_dinov2"].extractor == {"type": "DINOv2Extractor"}
    assert built["recall"].extractor == built["coverage"].extractor == {"type": "VGG16Extractor"}
    needs = {name: built[name].needs for name in of_features}
    assert needs["is"] == "nothing"
    assert needs["fid"] == needs["fd_dinov2"] == "statistics"
    assert {needs[name] for name in ("kid", "recall", "coverage")} == {"features"}
    assert (built["fid"].num, built["fid"].num_real) == (50_000, None)
    assert (built["recall"].k, built["coverage"].k) == (3, 5)


@pytest.mark.parametrize(
    ("name", "lower", "higher"),
    [
        ("fid", {"fid"}, set()),
        ("is", set(), {"is"}),
        ("kid", {"kid"}, set()),
        ("recall", set(), {"precision", "recall"}),
        ("coverage", set(), {"density", "coverage"}),
        ("fd_dinov2", {"fd_dinov2"}, set()),
        ("time", {"seconds"}, {"images_per_second"}),
        ("nfe", {"nfe"}, set()),
        (
            "GaussianModes",
            {"kl"},
            {"modes", "high_quality", "lowest_share", "modes_with_half", "modes_with_fifth"},
        ),
        ("DigitModes", {"kl", "kl_uniform"}, {"modes"}),
        ("MnistModes", {"kl", "kl_uniform"}, {"modes"}),
    ],
)
def test_each_metric_says_which_values_are_better(name, lower, higher):
    metric = METRICS.build(DEFAULT_METRICS.get(name, {"type": name}))
    expected = dict.fromkeys(lower, False) | dict.fromkeys(higher, True)
    assert metric.higher_is_better == expected


def test_frechet_distance_of_a_shift():
    """The same features moved by s in each of 24 dimensions are 24 s² apart."""
    fake, real = features(300, 1), features(300, 1, shift=0.5)
    metric = FrechetDistance(label="fd")
    values = metric(fake, feature_statistics(real["features"]))
    assert values == {"fd": pytest.approx(24 * 0.25, rel=1e-5)}


def test_inception_score_of_written_out_formula():
    """exp of the mean KL from the marginal, in ten parts of the shuffled samples."""
    logits = 3 * features(103, 2, dim=12)["features"]
    values = InceptionScore()({"logits": logits}, None)
    order = np.random.RandomState(2020).permutation(103)
    p = torch.softmax(logits.double()[order], dim=1).numpy()
    parts = [p[i * 103 // 10 : (i + 1) * 103 // 10] for i in range(10)]
    scores = [np.exp((part * np.log(part / part.mean(0))).sum(1).mean()) for part in parts]
    assert values["is"] == pytest.approx(np.mean(scores), rel=1e-12)
    assert values["is_std"] == pytest.approx(np.std(scores), rel=1e-10)


def test_inception_score_bounds():
    certain = {"logits": 1000 * torch.eye(10).repeat(100, 1)}
    assert InceptionScore(splits=1)(certain, None)["is"] == pytest.approx(10)
    same = {"logits": torch.ones(50, 10)}
    assert InceptionScore()(same, None) == {"is": pytest.approx(1), "is_std": pytest.approx(0)}


def test_kernel_distance_of_all_samples_is_the_unbiased_estimate():
    """One subset of all samples, against torchmetrics and the formula."""
    from torchmetrics.image.kid import maximum_mean_discrepancy, poly_kernel

    fake, real = features(120, 3), features(120, 4, shift=0.2)
    values = KernelDistance(subsets=2, subset_size=120)(fake, real)
    x, y = fake["features"].double(), real["features"].double()
    pairs = [poly_kernel(a, b) for a, b in ((x, x), (x, y), (y, y))]
    expected = maximum_mean_discrepancy(*pairs).item()
    assert values["kid"] == pytest.approx(expected, rel=1e-10)
    assert values["kid_std"] == pytest.approx(0, abs=1e-12)

    kernels = [(((a @ b.T) / 24 + 1) ** 3).numpy() for a, b in ((x, x), (x, y), (y, y))]
    own = sum(k.sum() - np.trace(k) for k in kernels[::2])
    assert expected == pytest.approx(own / (120 * 119) - 2 * kernels[1].mean(), rel=1e-8)


def test_manifold_metrics_are_those_of_prdc():
    fake, real = features(150, 5), features(160, 6, shift=0.1)
    arrays = [part["features"].numpy() for part in (real, fake)]
    three, five = compute_prdc(*arrays, 3), compute_prdc(*arrays, 5)
    expected = {name: pytest.approx(three[name], abs=1e-6) for name in ("precision", "recall")}
    assert PrecisionRecall()(fake, real) == expected
    expected = {name: pytest.approx(five[name], abs=1e-6) for name in ("density", "coverage")}
    assert DensityCoverage()(fake, real) == expected


@pytest.mark.parametrize(
    ("metric", "least"), [(KernelDistance, 1000), (PrecisionRecall, 4), (DensityCoverage, 6)]
)
def test_too_few_images_are_an_error_that_says_how_many(metric, least):
    few, many = features(least - 1, 7), features(least, 8)
    for fake, real in ((few, many), (many, few)):
        with pytest.raises(UserError, match=f"= {least}; expected at least"):
            metric()(fake, real)


def test_inception_score_says_what_is_missing():
    with pytest.raises(UserError, match="needs logits"):
        InceptionScore()(features(100, 9), None)
    with pytest.raises(UserError, match="9 samples for the 10 splits"):
        InceptionScore()({"logits": torch.zeros(9, 5)}, None)


@pytest.mark.parametrize("metric", [InceptionScore, KernelDistance])
def test_without_torch_fidelity_the_extra_is_named_before_any_work(monkeypatch, metric):
    def version(name):
        raise pretrained.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(pretrained.importlib.metadata, "version", version)
    with pytest.raises(UserError, match=r"torch-fidelity is not installed.*ddgan\[eval\]"):
        metric()
    assert FrechetDistance().version
    assert PrecisionRecall().version

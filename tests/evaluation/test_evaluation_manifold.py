import contextlib
import io

import numpy as np
import pytest
import torch
from prdc import compute_prdc

from ddgan.evaluation import manifold, neighbours, precision_recall_density_coverage
from ddgan.evaluation.optional_packages import import_torch_fidelity

NAMES = ["precision", "recall", "density", "coverage"]


def features(n, dim, seed, spread=1.0, offset=2.0, intrinsic=16):
    """Features that vary in fewer directions than they have, far from zero, as networks' do."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(size=(intrinsic, dim))
    x = spread * rng.normal(size=(n, intrinsic)) @ basis + 0.1 * rng.normal(size=(n, dim))
    return (x + offset).astype(np.float32)


def by_loops(real, fake, k):
    """The definitions, sample by sample, in float64."""
    real, fake = real.astype(np.float64), fake.astype(np.float64)

    def radii(x):
        return [np.sort(np.linalg.norm(x - centre, axis=1))[k] for centre in x]

    distances = np.array([[np.linalg.norm(r - f) for f in fake] for r in real])
    in_real = distances < np.array(radii(real))[:, None]
    in_fake = distances < np.array(radii(fake))[None]
    values = [in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum(0).mean() / k]
    return dict(zip(NAMES, [*values, in_real.any(1).mean()], strict=True))


def prdc(real, fake, k):
    with contextlib.redirect_stdout(io.StringIO()):
        return compute_prdc(real, fake, k)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles much smaller than the data, that do not divide it."""
    original = neighbours.Tiles.__init__

    def init(self, *arguments):
        original(self, *arguments)
        self.size = 48

    monkeypatch.setattr(neighbours.Tiles, "__init__", init)
    monkeypatch.setattr(neighbours, "_MAX_ENTRIES", 1000)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m", "dim"), [(600, 500, 64), (300, 700, 300)])
def test_agrees_with_prdc(n, m, dim, k):
    real, fake = features(n, dim, 1), features(m, dim, 2, spread=0.9, offset=2.02)
    values = precision_recall_density_coverage(real, fake, k)
    assert list(values) == NAMES
    assert values == pytest.approx(prdc(real, fake, k), abs=1e-6)
    assert 0.05 < values["recall"] < 0.95  # the comparison says something


@pytest.mark.parametrize("k", [3, 5])
def test_agrees_with_torch_fidelity(k):
    import_torch_fidelity()
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = features(500, 64, 3), features(400, 64, 4, spread=0.8)
    values = precision_recall_density_coverage(real, fake, k)
    theirs = prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), prc_neighborhood=k, verbose=False
    )
    assert values["precision"] == pytest.approx(theirs["precision"], abs=1e-6)
    assert values["recall"] == pytest.approx(theirs["recall"], abs=1e-6)


@pytest.mark.usefixtures("small_tiles")
def test_tiles_do_not_change_the_definition():
    real, fake = features(110, 20, 5), features(97, 20, 6, spread=0.9)
    for k in (1, 4):
        values = precision_recall_density_coverage(real, fake, k)
        assert values == pytest.approx(by_loops(real, fake, k), abs=1e-12)


@pytest.mark.usefixtures("small_tiles")
def test_decides_in_float64_what_float32_cannot():
    """Clusters so far from one another that float32 sees no distances within them."""
    rng = np.random.default_rng(7)
    centres = 1e4 * rng.normal(size=(6, 12))
    real, fake = (centres[rng.integers(6, size=n)] + rng.normal(size=(n, 12)) for n in (90, 80))
    values = precision_recall_density_coverage(real, fake, 3)
    assert values == pytest.approx(by_loops(real, fake, 3), abs=1e-12)


def test_a_copy_of_the_kth_neighbour_is_outside():
    """Balls are open, and memorised samples lie on their surface exactly."""
    real = np.arange(6.0)[:, None] ** 2  # distances to the nearest: 1 1 3 5 7 9
    fake = real[[1, 4]]
    values = precision_recall_density_coverage(real, fake, 1)
    # The copy of 1 is in its own ball alone: on the surface of those around 0 and 4.
    assert values == {"precision": 1, "recall": 1, "density": 1, "coverage": 2 / 6}


def test_collapsed_and_perfect_samples():
    real = features(200, 32, 8)
    same = precision_recall_density_coverage(real, real.copy(), 5)
    assert same == {"precision": 1, "recall": 1, "density": pytest.approx(1), "coverage": 1}
    collapsed = np.repeat(real[:1], 50, axis=0)
    values = precision_recall_density_coverage(real, collapsed, 5)
    assert values["precision"] == 1
    assert values["recall"] == 0  # all balls have the radius 0
    assert values["coverage"] < 0.2


def test_does_not_depend_on_order_offset_or_dtype():
    real, fake = features(250, 32, 9), features(240, 32, 10, spread=0.9)
    expected = precision_recall_density_coverage(real, fake)
    rng = np.random.default_rng(0)
    shuffled = precision_recall_density_coverage(rng.permutation(real), rng.permutation(fake))
    assert shuffled == expected
    moved = [x.astype(np.float64) + 512 for x in (real, fake)]
    assert precision_recall_density_coverage(*moved) == expected


def test_a_reduced_precision_for_matrix_products_is_not_used():
    real, fake = features(300, 64, 11), features(280, 64, 12, spread=0.9)
    expected = precision_recall_density_coverage(real, fake)
    torch.set_float32_matmul_precision("medium")
    try:
        assert precision_recall_density_coverage(real, fake) == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_no_array_grows_with_the_product_of_the_numbers(monkeypatch):
    """Not even where all samples are inside all balls."""
    largest = 0
    original = manifold._inside

    def inside(tile, *arguments):
        nonlocal largest
        largest = max(largest, tile.numel())
        return original(tile, *arguments)

    monkeypatch.setattr(manifold, "_inside", inside)
    real, fake = features(4100, 4, 13), features(2100, 4, 14)
    precision_recall_density_coverage(real, fake)
    assert largest == 2048 * 2048


@pytest.mark.parametrize(
    ("real", "fake", "k"),
    [
        (np.zeros((9, 3)), np.zeros((9, 4)), 2),
        (np.zeros((9, 3)), np.zeros((2, 3)), 2),
        (np.zeros((9, 3)), np.zeros((9, 3)), 0),
        (np.zeros(9), np.zeros((9, 3)), 2),
        (np.zeros((9, 3)), np.full((9, 3), np.nan), 2),
    ],
    ids=["dimensions", "too few", "k", "shape", "not finite"],
)
def test_says_what_does_not_fit(real, fake, k):
    with pytest.raises(ValueError, match=r"expected|finite"):
        precision_recall_density_coverage(real, fake, k)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_values():
    real, fake = (torch.from_numpy(features(3000, 64, s)) for s in (15, 16))
    expected = precision_recall_density_coverage(real, fake)
    assert precision_recall_density_coverage(real.cuda(), fake.cuda()) == expected

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc

from ddgan.evaluation import manifold, nearest_neighbours, precision_recall_density_coverage
from ddgan.evaluation.pretrained import import_torch_fidelity

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
        # Norms are rounded; a point on the surface is to be inside.
        return [np.sort(np.linalg.norm(x - centre, axis=1))[k] * (1 + 1e-12) for centre in x]

    distances = np.array([[np.linalg.norm(r - f) for f in fake] for r in real])
    in_real = distances <= np.array(radii(real))[:, None]
    in_fake = distances <= np.array(radii(fake))[None]
    values = [in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum(0).mean() / k]
    return dict(zip(NAMES, [*values, in_real.any(1).mean()], strict=True))


def by_torch_fidelity(real, fake, k):
    import_torch_fidelity()
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = (torch.from_numpy(x).double() for x in (real, fake))
    values = prc_features_to_metric(fake, real, prc_neighborhood=k, verbose=False)
    return {name: values[name] for name in NAMES[:2]}


def by_prdc(real, fake, k):
    with contextlib.redirect_stdout(io.StringIO()):
        return compute_prdc(real, fake, k)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks much smaller than the data, which do not divide it."""
    monkeypatch.setattr(manifold, "_BLOCK", {"cpu": 48})


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m", "dim"), [(600, 500, 64), (300, 700, 300)])
def test_agrees_with_prdc_and_torch_fidelity(n, m, dim, k):
    """No point of these is on a surface, where the two disagree."""
    real, fake = features(n, dim, 1), features(m, dim, 2, spread=0.9, offset=2.02)
    values = precision_recall_density_coverage(real, fake, k)
    assert list(values) == NAMES
    assert values == pytest.approx(by_prdc(real, fake, k), abs=1e-6)
    theirs = by_torch_fidelity(real, fake, k)
    assert {name: values[name] for name in theirs} == pytest.approx(theirs, abs=1e-6)
    assert 0.05 < values["recall"] < 0.95  # the comparison says something


@pytest.mark.usefixtures("small_blocks")
def test_blocks_do_not_change_the_definition():
    real, fake = features(110, 20, 5), features(97, 20, 6, spread=0.9)
    for k in (1, 4):
        values = precision_recall_density_coverage(real, fake, k)
        assert values == pytest.approx(by_loops(real, fake, k), abs=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_decides_in_float64_what_float32_cannot():
    """Clusters so far from one another that float32 sees no distances within them."""
    rng = np.random.default_rng(7)
    centres = 1e4 * rng.normal(size=(6, 12))
    real, fake = (centres[rng.integers(6, size=n)] + rng.normal(size=(n, 12)) for n in (90, 80))
    values = precision_recall_density_coverage(real, fake, 3)
    assert values == pytest.approx(by_loops(real, fake, 3), abs=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_a_copy_of_the_kth_neighbour_is_inside():
    """Balls are closed, as torch-fidelity's: memorised samples lie on surfaces exactly."""
    real = (np.arange(6.0)[:, None] ** 2).astype(np.float32)  # to the nearest: 1 1 3 5 7 9
    fake = real[[1, 4]]
    values = precision_recall_density_coverage(real, fake, 1)
    # The copy of 1 is in the balls around 0, 1, 4 and the copy of 16 in those around 16 and 25.
    assert values == {"precision": 1, "recall": 1, "density": 5 / 2, "coverage": 5 / 6}
    assert by_torch_fidelity(real, fake, 1) == {"precision": 1, "recall": 1}
    # In many dimensions rounding puts copies on either side of the surface, but not here.
    real = features(150, 700, 12)
    copies = real[np.random.default_rng(0).permutation(150)[:60]]
    values = precision_recall_density_coverage(real, copies, 1)
    assert values == pytest.approx(by_loops(real, copies, 1), abs=1e-12)


def test_collapsed_and_perfect_samples():
    real = features(200, 32, 8)
    same = precision_recall_density_coverage(real, real.copy(), 5)
    # Each sample is in its own ball and, as everyone's k-th neighbour on average, in k others.
    assert same == {"precision": 1, "recall": 1, "density": pytest.approx(6 / 5), "coverage": 1}
    collapsed = np.repeat(real[:1], 50, axis=0)
    values = precision_recall_density_coverage(real, collapsed, 5)
    assert values["precision"] == 1
    assert values["recall"] == 1 / 200  # all balls have the radius 0
    assert values["coverage"] < 0.2


def test_does_not_depend_on_order_offset_dtype_or_precision_of_products():
    real, fake = features(250, 32, 9), features(240, 32, 10, spread=0.9)
    expected = precision_recall_density_coverage(real, fake)
    rng = np.random.default_rng(0)
    shuffled = precision_recall_density_coverage(rng.permutation(real), rng.permutation(fake))
    assert shuffled == expected
    moved = [x.astype(np.float64) + 512 for x in (real, fake)]
    assert precision_recall_density_coverage(*moved) == expected
    torch.set_float32_matmul_precision("medium")
    try:
        assert precision_recall_density_coverage(real, fake) == expected
    finally:
        torch.set_float32_matmul_precision("highest")


def test_no_array_grows_with_the_product_of_the_numbers(monkeypatch):
    largest = 0
    original = manifold._squared_distances

    def squared_distances(x, y):
        nonlocal largest
        distances = original(x, y)
        largest = max(largest, distances.numel())
        return distances

    monkeypatch.setattr(manifold, "_squared_distances", squared_distances)
    precision_recall_density_coverage(features(4100, 4, 13), features(2100, 4, 14))
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


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    dim=st.integers(1, 20),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-6, 1.0, 1e5]),
)
def test_finds_the_neighbours_that_sorting_finds(n, m, dim, seed, scale):
    rng = np.random.default_rng(seed)
    queries, references = (scale * rng.normal(size=(count, dim)) + 7 for count in (n, m))
    k = int(rng.integers(1, m + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifold, "_BLOCK", {"cpu": 16})
        found = nearest_neighbours(queries, references, k)
    distances = np.linalg.norm(queries[:, None] - references[None], axis=-1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(distances, order, axis=1)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.indices, order)


def test_a_copy_is_at_distance_zero_and_near_copies_differ():
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) + 1000
    near = torch.cat([x, x[:10].double() + 1e-6])
    found = nearest_neighbours(x[7:9], near, 2)
    assert found.indices.tolist() == [[7, 57], [8, 58]]
    assert found.distances[:, 0].tolist() == [0, 0]
    np.testing.assert_allclose(found.distances[:, 1], 12**0.5 * 1e-6, rtol=1e-4)


@pytest.mark.parametrize(("references", "k"), [((3, 4), 4), ((3, 5), 1), ((3, 4), 0)])
def test_says_which_neighbours_there_cannot_be(references, k):
    with pytest.raises(ValueError, match="expected"):
        nearest_neighbours(np.zeros((2, 4)), np.zeros(references), k)

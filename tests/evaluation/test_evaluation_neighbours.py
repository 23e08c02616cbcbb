import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddgan.evaluation import nearest_neighbours, neighbours


def by_sorting(queries, references, k, own=False):
    distances = np.linalg.norm(queries[:, None] - references[None], axis=-1)
    if own:
        np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 40),
    m=st.integers(1, 40),
    dim=st.integers(1, 20),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-6, 1.0, 1e5]),
)
def test_finds_what_sorting_finds(n, m, dim, seed, scale):
    rng = np.random.default_rng(seed)
    queries, references = (scale * rng.normal(size=(count, dim)) + 7 for count in (n, m))
    k = int(rng.integers(1, m + 1))
    found = nearest_neighbours(queries, references, k)
    distances, order = by_sorting(queries, references, k)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    np.testing.assert_array_equal(found.indices, order)
    k = int(rng.integers(1, n))
    found = nearest_neighbours(queries, k=k)
    distances, order = by_sorting(queries, queries, k, own=True)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    np.testing.assert_array_equal(found.indices, order)


@pytest.mark.parametrize("own", [False, True])
def test_many_tiles(monkeypatch, own):
    original = neighbours.Tiles.__init__

    def init(self, *arguments):
        original(self, *arguments)
        self.size = 32

    monkeypatch.setattr(neighbours.Tiles, "__init__", init)
    rng = np.random.default_rng(1)
    queries, references = rng.normal(size=(150, 8)), rng.normal(size=(133, 8))
    references = queries if own else references
    found = nearest_neighbours(queries, None if own else references, 6)
    distances, order = by_sorting(queries, references, 6, own)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)
    np.testing.assert_array_equal(found.indices, order)


def test_tells_near_copies_apart():
    """A hundred images that differ by less than float32 resolves, among others far away."""
    rng = np.random.default_rng(2)
    copies = 1000 + 1e-3 * rng.normal(size=(100, 16))
    references = np.concatenate([-1000 + rng.normal(size=(300, 16)), copies])
    queries = copies[:7] + 1e-5
    found = nearest_neighbours(queries, references, 4)
    distances, order = by_sorting(queries, references, 4)
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    own = nearest_neighbours(references, k=3)
    np.testing.assert_array_equal(own.indices, by_sorting(references, references, 3, own=True)[1])


def test_a_copy_is_at_no_distance():
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    found = nearest_neighbours(x[7:9], x, 1)
    assert found.indices.flatten().tolist() == [7, 8]
    assert found.distances.flatten().tolist() == [0, 0]
    twice = torch.cat([x, x])
    found = nearest_neighbours(twice, k=1)
    assert found.distances.max() == 0
    assert found.indices.flatten().tolist() == [*range(50, 100), *range(50)]


@pytest.mark.parametrize(
    ("references", "k"), [(np.zeros((3, 4)), 4), (np.zeros((3, 5)), 1), (None, 2), (None, 0)]
)
def test_says_what_does_not_fit(references, k):
    with pytest.raises(ValueError, match="expected"):
        nearest_neighbours(np.zeros((2, 4)), references, k)

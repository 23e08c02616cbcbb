"""The sampler: permutations, partition among ranks, and resuming anywhere with any world size."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ddgan.data import Gaussians25, ResumableSampler, check_batch_size
from ddgan.data import samplers as module
from ddgan.registry import DATA_SAMPLERS

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)
worlds = st.integers(1, 7)


def stream(size, seed, rank, world, count, start=0, shuffle=True):
    sampler = ResumableSampler(range(size), shuffle=shuffle, seed=seed)
    sampler.rank, sampler.world_size = rank, world
    sampler.set_position(start)
    return list(islice(iter(sampler), count))


@given(sizes, seeds, st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_every_epoch_is_a_permutation(size, seed, epochs):
    order = stream(size, seed, 0, 1, size * (epochs + 1))
    for epoch in range(epochs + 1):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(sizes, seeds, worlds, st.integers(0, 100))
@settings(deadline=None, max_examples=50)
def test_ranks_share_out_the_stream(size, seed, world, start):
    whole = stream(size, seed, 0, 1, start + 20 * world)
    shares = [stream(size, seed, r, world, 20, start) for r in range(world)]
    interleaved = [index for step in zip(*shares, strict=True) for index in step]
    assert interleaved == whole[start:]


@given(sizes, seeds, worlds, worlds, st.integers(0, 9), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_resume_with_another_world_size(size, seed, before, after, batches, per_rank):
    """What the first run has not used, the second one uses, in the same order."""
    used = batches * per_rank * before
    shares = [stream(size, seed, r, after, 12, start=used) for r in range(after)]
    first = [index for step in zip(*shares, strict=True) for index in step]
    assert first == stream(size, seed, 0, 1, used + 12 * after)[used:]


def test_epochs_and_seeds_differ_and_order_without_shuffle():
    order = stream(100, 0, 0, 1, 200)
    assert order[:100] != order[100:]
    assert order != stream(100, 1, 0, 1, 200)
    assert stream(3, 0, 0, 1, 7, shuffle=False) == [0, 1, 2, 0, 1, 2, 0]


def test_permutations_are_uniform():
    counts = {}
    sampler = ResumableSampler(range(3), seed=0)
    for epoch in range(6000):
        key = tuple(sampler.epoch_order(epoch))
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6
    # Binomial(6000, 1/6) has a standard deviation of 29.
    assert all(abs(count - 1000) < 5 * 29 for count in counts.values())


def test_a_far_position_costs_nothing():
    sampler = ResumableSampler(range(10), seed=0)
    sampler.set_position(10**15 + 3)
    assert next(iter(sampler)) == sampler.epoch_order(10**14)[3]


def test_in_a_loader_and_from_the_registry(monkeypatch):
    monkeypatch.setattr(module, "get_dist_info", lambda: (1, 3))
    data = Gaussians25(num_samples=10)
    config = {"type": "ResumableSampler", "shuffle": True}
    sampler = DATA_SAMPLERS.build(config, default_args={"dataset": data, "seed": 2})
    loader = DataLoader(data, batch_size=4, sampler=sampler)
    indices = torch.cat([batch["index"] for batch in islice(loader, 5)]).tolist()
    assert indices == stream(10, 2, 1, 3, 20)
    assert len(sampler) == 10


def test_no_seed_draws_one():
    sampler = ResumableSampler(range(1000), seed=None)
    first = list(islice(sampler, 1000))
    assert first == list(islice(sampler, 1000))
    assert sorted(first) == list(range(1000))


def test_bad_input():
    with pytest.raises(ValueError, match="the data set is empty"):
        ResumableSampler([], seed=0)
    with pytest.raises(ValueError, match="position -1 is negative"):
        ResumableSampler([1], seed=0).set_position(-1)
    check_batch_size(Gaussians25(num_samples=8), 8)
    with pytest.raises(ValueError, match=r"batch of 9 .* 'gaussians25' of 8: lower"):
        check_batch_size(Gaussians25(num_samples=8), 9)

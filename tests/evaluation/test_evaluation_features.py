"""A series of samples in shards; tests/tools/test_test_tool.py has whole evaluations."""

from hypothesis import given
from hypothesis import strategies as st

from ddgan.evaluation.features import SHARD_SIZE, in_order, own_shards, shard_length


@given(st.integers(0, 10 * SHARD_SIZE))
def test_shards_cover_a_series_once(num):
    count = len(own_shards(num))
    lengths = [shard_length(num, shard) for shard in range(count + 1)]
    assert sum(lengths) == num
    assert lengths[-1] == 0
    assert all(length == SHARD_SIZE for length in lengths[:-2])
    assert list(in_order(num, lambda shard: shard)) == list(range(count))

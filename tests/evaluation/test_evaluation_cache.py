"""Files of tensors: found by their identity alone, and never trusted where they are damaged."""

import pwd
import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddgan.evaluation.cache import ShardCache, cache_root, load_tensors, save_tensors


def test_a_series_is_found_again_by_its_identity_alone(tmp_path):
    cache = ShardCache(tmp_path, {"seed": 1})
    x = torch.arange(12.0).reshape(6, 2)
    cache.write(3, {"features": x})
    assert torch.equal(ShardCache(tmp_path, {"seed": 1}).read(3, 4)["features"], x[:4])
    assert cache.read(3, 7) is None
    assert cache.read(2, 1) is None
    assert ShardCache(tmp_path, {"seed": 2}).read(3, 4) is None
    nowhere = ShardCache(None, {"seed": 1})
    nowhere.write(3, {"features": x})
    assert nowhere.read(3, 4) is None


def test_only_shards_are_removed(tmp_path):
    cache = ShardCache(tmp_path / "features", {})
    for shard in range(3):
        cache.write(shard, {"x": torch.zeros(2)})
    (cache.folder / ".shard_000002.safetensors.77.tmp").touch()
    cache.remove(first=1)
    assert [path.name for path in cache.folder.iterdir()] == ["shard_000000.safetensors"]
    (cache.folder / "notes.txt").touch()
    cache.remove()
    assert [path.name for path in cache.folder.iterdir()] == ["notes.txt"]
    (cache.folder / "notes.txt").unlink()
    (tmp_path / "features" / "of another series").mkdir()
    cache.remove()
    assert [path.name for path in cache.folder.parent.iterdir()] == ["of another series"]
    cache.write(0, {"x": torch.zeros(2)})
    (tmp_path / "features" / "of another series").rmdir()
    cache.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_most_shards_that_any_call_wanted_are_kept(tmp_path):
    cache = ShardCache(tmp_path, {})

    def left(count):
        for shard in range(4):
            cache.write(shard, {"x": torch.zeros(2)})
        cache.keep(count)
        return sorted(int(path.stem[-6:]) for path in cache.folder.glob("shard_*"))

    assert left(2) == [0, 1]
    assert left(0) == [0, 1]
    assert left(3) == [0, 1, 2]
    assert left(1) == [0, 1, 2]


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path):
    (tmp_path / "file").touch()
    cache = ShardCache(tmp_path / "file", {})
    cache.write(0, {"x": torch.zeros(2)})
    assert cache.read(0, 1) is None


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200), cut=st.integers(0, 400), flip=st.integers(0, 10_000))
def test_no_bytes_are_taken_for_tensors(tmp_path_factory, content, cut, flip):
    path = tmp_path_factory.mktemp("bytes") / "x.safetensors"
    path.write_bytes(content)
    assert load_tensors(path, {}) is None
    assert save_tensors(path, {"x": torch.arange(50.0)}, {})
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    assert load_tensors(path, {}) is None
    whole[flip % len(whole)] ^= 1
    path.write_bytes(whole)
    assert load_tensors(path, {}) is None


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    """As in a container that runs under a user id of its own."""
    for name in ("DDGAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert cache_root().parent == Path(tempfile.gettempdir())

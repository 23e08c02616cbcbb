import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddgan.data import StackedDigits
from ddgan.engine import load_config
from ddgan.errors import UserError
from ddgan.evaluation import (
    SamplingTime,
    count_evaluations,
    read_records,
    reference_files,
    sampled_features,
    sampling_time,
    write_record,
)
from ddgan.evaluation.frechet import feature_statistics
from ddgan.evaluation.real_data import Reference, real_reference
from ddgan.evaluation.reference_files import read_reference, write_reference
from ddgan.evaluation.shards import SHARD_SIZE, ShardCache, in_order, num_shards, shard_length
from ddgan.evaluation.stored_tensors import load_tensors, save_tensors
from ddgan.registry import MODELS

CONFIGS = Path(__file__).parents[2] / "configs"
EXTRACTOR = {"name": "pixels", "digest": "d"}


@given(st.integers(0, 10 * SHARD_SIZE))
def test_shards_cover_a_series_once(num):
    lengths = [shard_length(num, shard) for shard in range(num_shards(num) + 1)]
    assert sum(lengths) == num
    assert lengths[-1] == 0
    assert all(length == SHARD_SIZE for length in lengths[:-2])
    assert list(in_order(num, lambda shard: shard)) == list(range(num_shards(num)))


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


@pytest.fixture(scope="module")
def pixels():
    return MODELS.build({"type": "PixelExtractor", "image_shape": (3, 8, 8)})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_real_images_in_shards_give_the_statistics_of_all(tmp_path, pixels, num_workers):
    data = StackedDigits(num_samples=1_100)
    reference = real_reference(
        data, pixels, EXTRACTOR, {1_100, 700}, 90, tmp_path, num_workers=num_workers
    )
    x = torch.stack([item["x"] for item in data.__getitems__(range(1_100))])
    features = pixels(x)["features"]
    expected = feature_statistics(features)
    torch.testing.assert_close(reference.statistics[1_100].mean, expected.mean)
    torch.testing.assert_close(reference.statistics[1_100].cov, expected.cov)
    assert reference.statistics[700].num == 700
    assert reference.features.shape == (90, features.shape[1])
    # A choice of all images, each at most once.
    distances = torch.cdist(reference.features.double(), features.double())
    chosen = distances.argmin(dim=1)
    assert distances.min(dim=1).values.max() < 1e-5
    assert len(chosen.unique()) == 90
    assert chosen.max() > 700

    class Unused(torch.nn.Module):
        def forward(self, images):
            raise RuntimeError("images are looked at")

    again = real_reference(data, Unused(), EXTRACTOR, {1_100}, 90, tmp_path)
    assert torch.equal(again.features, reference.features)
    assert torch.equal(again.statistics[1_100].cov, reference.statistics[1_100].cov)
    # Another data set is not taken for this one, nor another extractor for this one.
    with pytest.raises(RuntimeError, match="are looked at"):
        real_reference(StackedDigits(num_samples=1_099), Unused(), EXTRACTOR, set(), 9, tmp_path)
    with pytest.raises(RuntimeError, match="are looked at"):
        real_reference(data, Unused(), {"name": "pixels", "digest": "e"}, set(), 9, tmp_path)


def test_features_that_another_metric_wants_are_kept(tmp_path, pixels):
    data = StackedDigits(num_samples=1_100)

    def shards():
        return sorted(int(path.stem[-6:]) for path in tmp_path.glob("*/shard_*.safetensors"))

    real_reference(data, pixels, EXTRACTOR, {1_100}, 0, tmp_path)
    assert shards() == []
    first = real_reference(data, pixels, EXTRACTOR, set(), 900, tmp_path).features
    assert shards() == [0, 1]
    # As for FID alone, of other images than before, and for a metric that takes fewer.
    real_reference(data, pixels, EXTRACTOR, {1_050}, 0, tmp_path)
    real_reference(data, pixels, EXTRACTOR, set(), 90, tmp_path)
    assert shards() == [0, 1]
    broken = torch.nn.Module()  # cannot be called
    again = real_reference(data, broken, EXTRACTOR, {1_050}, 900, tmp_path)
    assert torch.equal(again.features, first)


def test_a_reference_file_is_read_as_it_was_written(tmp_path):
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    reference = Reference(30, {"name": "data"}, {30: feature_statistics(x)}, x)
    path = tmp_path / "deep" / "real.npz"
    write_reference(path, reference, EXTRACTOR)
    found = read_reference(path, 3, EXTRACTOR)
    assert torch.equal(found.statistics[None].cov, reference.statistics[30].cov)
    assert torch.equal(found.features, x)
    assert (found.num, found.source["name"], found.source["file"]) == (30, "data", "real.npz")
    sigma = np.arange(9.0).reshape(3, 3)
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(3, np.float32), sigma=np.asfortranarray(sigma))
    theirs = read_reference(tmp_path / "theirs.npz", 3, EXTRACTOR)
    assert theirs.features is None
    np.testing.assert_array_equal(theirs.statistics[None].cov, sigma)
    assert theirs.statistics[None].mean.dtype == torch.float64
    with pytest.raises(UserError, match="is of the extractor pixels d; the metric has pixels e"):
        read_reference(path, 3, {"name": "pixels", "digest": "e"})
    with pytest.raises(UserError, match=r"expected \{'mu': \(4,\)"):
        read_reference(path, 4, EXTRACTOR)


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def damaged_in_the_middle():
    file = io.BytesIO()
    np.savez_compressed(file, mu=np.zeros(3), sigma=np.random.default_rng(0).normal(size=(3, 3)))
    content = bytearray(file.getvalue())
    start = content.index(b"sigma.npy") + 40
    content[start : start + 8] = bytes(8)
    return bytes(content)


def encrypted(content):
    """The archive with the mark of encrypted content in both headers of its first file."""
    content = bytearray(content)
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(start) + flags] |= 1
    return bytes(content)


def test_reference_files_that_are_none(tmp_path, monkeypatch):
    marker, path = tmp_path / "ran", tmp_path / "x.npz"

    def refused(content, match="damaged or not a .npz file"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=match):
            read_reference(path, 3, EXTRACTOR)
        assert not marker.exists()

    good = io.BytesIO()
    np.savez(good, mu=np.zeros(3), sigma=np.eye(3))
    objects = io.BytesIO()
    np.savez(objects, mu=np.array([Malicious(marker)] * 3, dtype=object), sigma=np.eye(3))
    refused(pickle.dumps(Malicious(marker)))
    refused(objects.getvalue())
    refused(good.getvalue()[:-50])
    refused(b"")
    refused(damaged_in_the_middle())
    refused(encrypted(good.getvalue()))
    for num in (np.zeros(2), np.array(2.5)):
        odd = io.BytesIO()
        np.savez(odd, mu=np.zeros(3), sigma=np.eye(3), num=num)
        refused(odd.getvalue(), r"as num; expected a whole number")
    large = io.BytesIO()
    with zipfile.ZipFile(large, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(5_000_000))
    with monkeypatch.context() as limited:
        limited.setattr(reference_files, "_MAX_BYTES", 4_000_000)
        refused(large.getvalue(), "unpacks to 5000000 bytes, over the limit of 4000000")
    huge = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    )
    with zipfile.ZipFile(huge, "w") as archive:
        archive.writestr("mu.npy", header.getvalue())
    refused(huge.getvalue(), "more than it holds")
    with pytest.raises(UserError, match="does not exist"):
        read_reference(tmp_path / "no.npz", 3, EXTRACTOR)


def test_records_are_found_among_other_files(tmp_path):
    folder = tmp_path / "run" / "deep"
    folder.mkdir(parents=True)
    write_record(folder / "iter_2.pth", "fid", {"fid": 2.5}, {"iteration": 2}, version="3")
    write_record(tmp_path / "run" / "iter_1.pth", "fid", {"fid": float("inf")}, {"seed": 0})
    (folder / "list.json").write_text("[]")
    (folder / "other.json").write_text('{"metric": "fid"}')
    (folder / "lines.json").write_text('{"a": 1}\n{"a": 2}\n')
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "binary.json").write_bytes(b"\xff\xfe\x80")
    (folder / "large.json").write_text(json.dumps("x" * 2**20))
    records = read_records(tmp_path)
    assert [record["values"]["fid"] for record in records] == [2.5, float("inf")]
    assert records[0]["version"] == "3"
    assert records[0]["protocol"]["checkpoint"] == "iter_2.pth"
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_records(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("config", "nfe"), [("ddgan_stackeddigits.py", 4), ("spigan_stackeddigits.py", 1)]
)
def test_evaluations_are_counted(config, nfe):
    model = MODELS.build(load_config(CONFIGS / config).model)
    assert count_evaluations(model) == nfe
    sample, calls = model.sample, []

    def twice(*args, **kwargs):
        calls.append(sample(*args, **kwargs))
        return sample(*args, **kwargs)

    model.sample = twice
    assert count_evaluations(model, use_ema=False) == 2 * nfe
    assert len(calls) == 1
    assert not model.generator._forward_hooks


def test_times_are_quantiles_of_the_repeats_after_the_warm_up(monkeypatch):
    class Model:
        device = torch.device("cpu")
        generator = generator_ema = torch.nn.Identity()
        calls = 0

        def sample(self, n, seed=0, batch_size=None, use_ema=True):
            # A batch of the warm-up takes 100 s, the others 1, 2, 3, … s.
            if n == 20:
                self.calls += 1
                clock[0] += 100 if self.calls <= 2 else self.calls - 2
            assert not use_ema

    clock = [0.0]
    monkeypatch.setattr(sampling_time.time, "perf_counter", lambda: clock[0])
    values = SamplingTime(batch_size=20, warmup=2, repeats=5)(Model(), use_ema=False)
    assert values["seconds"] == 3
    assert (values["seconds_q25"], values["seconds_q75"]) == (2, 4)
    assert (values["seconds_min"], values["seconds_max"]) == (1, 5)
    assert values["images_per_second"] == pytest.approx(20 / 3)
    with pytest.raises(ValueError, match="repeats 0"):
        SamplingTime(repeats=0)


def test_grey_images_and_large_batches_are_extracted(pixels, monkeypatch):
    sizes = []

    def extractor(images):
        sizes.append(tuple(images.shape))
        return {"features": images.flatten(1).float()}

    x = torch.randint(0, 256, (120, 1, 2, 2), dtype=torch.uint8)
    features = sampled_features.extract(extractor, x)["features"]
    assert torch.equal(features, x.expand(-1, 3, -1, -1).flatten(1).float())
    assert sizes == [(50, 3, 2, 2), (50, 3, 2, 2), (20, 3, 2, 2)]

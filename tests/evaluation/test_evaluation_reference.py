"""Reference sets: of a data set, computed once, and of a file, which is never trusted."""

import contextlib
import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddgan.data import StackedDigits
from ddgan.errors import UserError
from ddgan.evaluation import PixelExtractor, feature_statistics, reference_files
from ddgan.evaluation.reference import Reference, dataset_reference
from ddgan.evaluation.reference_files import read_reference, write_reference

EXTRACTOR = {"name": "pixels", "digest": "d"}


@pytest.fixture(scope="module")
def pixels():
    return PixelExtractor(image_shape=(3, 8, 8))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_real_images_in_shards_give_the_statistics_of_all(tmp_path, pixels, num_workers):
    data = StackedDigits(num_samples=1_100)
    found = dataset_reference(data, pixels, EXTRACTOR, True, 90, tmp_path, num_workers=num_workers)
    x = torch.stack([item["x"] for item in data.__getitems__(range(1_100))])
    features = pixels(x)["features"]
    expected = feature_statistics(features)
    torch.testing.assert_close(found.statistics.mean, expected.mean)
    torch.testing.assert_close(found.statistics.cov, expected.cov)
    assert found.statistics.num == 1_100
    assert found.features.shape == (90, features.shape[1])
    # A choice of all images, each at most once.
    distances = torch.cdist(found.features.double(), features.double())
    chosen = distances.argmin(dim=1)
    assert distances.min(dim=1).values.max() < 1e-5
    assert len(chosen.unique()) == 90
    assert chosen.max() > 700

    class Unused(torch.nn.Module):
        def forward(self, images):
            raise RuntimeError("images are looked at")

    again = dataset_reference(data, Unused(), EXTRACTOR, True, 90, tmp_path)
    assert torch.equal(again.features, found.features)
    assert torch.equal(again.statistics.cov, found.statistics.cov)
    others = StackedDigits(num_samples=1_099)
    # Another data set is not taken for this one, nor another extractor for this one.
    with pytest.raises(RuntimeError, match="are looked at"):
        dataset_reference(others, Unused(), EXTRACTOR, False, 9, tmp_path)
    with pytest.raises(RuntimeError, match="are looked at"):
        dataset_reference(data, Unused(), {**EXTRACTOR, "digest": "e"}, False, 9, tmp_path)


def test_features_that_another_metric_wants_are_kept(tmp_path, pixels):
    data = StackedDigits(num_samples=1_100)

    def shards():
        return sorted(int(path.stem[-6:]) for path in tmp_path.glob("*/shard_*.safetensors"))

    dataset_reference(data, pixels, EXTRACTOR, True, 0, tmp_path)
    assert shards() == []
    first = dataset_reference(data, pixels, EXTRACTOR, False, 900, tmp_path).features
    assert shards() == [0, 1]
    # Statistics need the third shard again, but keep the others; so does a metric that takes fewer.
    for path in (tmp_path / "statistics").iterdir():
        path.unlink()
    dataset_reference(data, pixels, EXTRACTOR, True, 0, tmp_path)
    dataset_reference(data, pixels, EXTRACTOR, False, 90, tmp_path)
    assert shards() == [0, 1]
    broken = torch.nn.Module()  # cannot be called
    again = dataset_reference(data, broken, EXTRACTOR, True, 900, tmp_path)
    assert torch.equal(again.features, first)


def test_a_reference_file_is_read_as_it_was_written(tmp_path):
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    written = Reference(30, {"name": "data"}, feature_statistics(x), x)
    path = tmp_path / "deep" / "real.npz"
    write_reference(path, written, EXTRACTOR)
    found = read_reference(path, 3, EXTRACTOR)
    assert torch.equal(found.statistics.cov, written.statistics.cov)
    assert torch.equal(found.features, x)
    assert (found.num, found.source["name"], found.source["file"]) == (30, "data", "real.npz")
    sigma = np.arange(9.0).reshape(3, 3)
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(3, np.float32), sigma=np.asfortranarray(sigma))
    theirs = read_reference(tmp_path / "theirs.npz", 3, EXTRACTOR)
    assert theirs.features is None
    np.testing.assert_array_equal(theirs.statistics.cov, sigma)
    assert theirs.statistics.mean.dtype == torch.float64
    with pytest.raises(UserError, match="is of the extractor pixels d; the metric has pixels e"):
        read_reference(path, 3, {"name": "pixels", "digest": "e"})
    with pytest.raises(UserError, match=r"expected \{'mu': \(4,\)"):
        read_reference(path, 4, EXTRACTOR)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    """Statistics in each form that is read."""
    folder = tmp_path_factory.mktemp("whole")
    both = {"mu": np.zeros(3), "sigma": np.eye(3)}
    np.savez(folder / "a.npz", **both)
    np.savez_compressed(folder / "b.npz", **both)
    np.save(folder / "c.npy", both, allow_pickle=True)
    torch.save(both, folder / "d.pt")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read(whole_files, tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(whole_files)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(UserError):
        assert read_reference(path, 3, EXTRACTOR).statistics.cov.isfinite().all()


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


def pickled(version, content):
    """A .npy file of a dict, as numpy writes it, or as numpy 1 and Python 2 did."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    array = np.empty((), dtype=object)
    array[()] = content
    pickle.dump(array, file, protocol=version)
    return file.getvalue()


def test_foreign_forms_of_statistics_are_read(tmp_path):
    rng = np.random.default_rng(0)
    mu, sigma = rng.normal(size=3), np.cov(rng.normal(size=(3, 20)))
    both = {"mu": mu, "sigma": sigma}
    np.savez(tmp_path / "adm.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8), mu_s=mu, **both)
    # Keys that are not needed are not read.
    np.savez(tmp_path / "extra.npz", ema=np.array(True), other=np.array([{}]), **both)
    np.save(tmp_path / "release.npy", both, allow_pickle=True)
    (tmp_path / "old.npy").write_bytes(pickled(2, both))
    columns = {"mu": mu.astype(">f8"), "sigma": np.asfortranarray(sigma)}
    (tmp_path / "order.npy").write_bytes(pickled(4, columns))
    (tmp_path / "fifth.npy").write_bytes(pickled(5, both))
    torch.save(both, tmp_path / "fidelity.pt")
    torch.save({k: torch.from_numpy(v) for k, v in both.items()}, tmp_path / "tensors.pt")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for path in files:
        found = read_reference(path, 3, EXTRACTOR)
        np.testing.assert_array_equal(found.statistics.mean, mu, err_msg=path.name)
        np.testing.assert_array_equal(found.statistics.cov, sigma, err_msg=path.name)
        assert (found.num, found.source["file"]) == (0, path.name)


def test_statistics_that_cannot_be_used_say_what_to_do(tmp_path):
    mu, sigma = np.zeros(3), np.eye(3)

    def refused(name, match, **arrays):
        path = tmp_path / name
        if arrays:
            np.savez(path, **arrays)
        with pytest.raises(UserError, match=match) as error:
            read_reference(path, 3, EXTRACTOR)
        assert "\n" not in str(error.value)
        return str(error.value)

    refused("a.npz", "sigma that are not finite", mu=mu, sigma=sigma * np.nan)
    refused("b.npz", "mu of type <U1; expected real", mu=np.array(["a"] * 3), sigma=sigma)
    refused("c.npz", "holds images .*evaluation_dataset", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    refused("d.npz", r"expected \{'mu': \(3,\)", mu=mu)
    np.save(tmp_path / "e.npy", sigma)
    refused("e.npy", r"holds one array float64 \(3, 3\)")
    np.save(tmp_path / "f.npy", {"mean": mu}, allow_pickle=True)
    refused("f.npy", r"keys \['mean'\]; expected mu and sigma")
    torch.save([mu], tmp_path / "g.pt")
    refused("g.pt", "holds a list; expected a dict")
    # EDM's reference files: the command that the message gives converts them.
    path = tmp_path / "edm.pkl"
    path.write_bytes(pickle.dumps({"fid": {"mu": mu, "sigma": sigma}}))
    message = refused("edm.pkl", "convert it with: python -c")
    command = message[message.index("python -c") :].removeprefix("python")
    subprocess.run(f"{sys.executable}{command}", shell=True, check=True)
    assert read_reference(f"{path}.npz", 3, EXTRACTOR).statistics.cov.trace() == 3


def test_reference_files_that_are_none(tmp_path, monkeypatch):
    marker, path = tmp_path / "ran", tmp_path / "x.npz"

    def refused(content, match="damaged or not a file|is a pickle"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=match):
            read_reference(path, 3, EXTRACTOR)
        assert not marker.exists()

    good = io.BytesIO()
    np.savez(good, mu=np.zeros(3), sigma=np.eye(3))
    objects = io.BytesIO()
    np.savez(objects, mu=np.array([Malicious(marker)] * 3, dtype=object), sigma=np.eye(3))
    code = Malicious(marker)
    refused(pickle.dumps(code))
    for version in (2, 4, 5):
        refused(pickled(version, code), "damaged .*refers to")
        refused(pickled(version, {"mu": code, "sigma": np.eye(3)}), "damaged .*refers to")
    torch.save({"mu": code}, path)
    refused(path.read_bytes())
    cut = pickled(4, {"mu": np.zeros(3), "sigma": np.eye(3)})
    refused(cut[:-30])
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
        archive.writestr("mu.npy", bytes(5_000_000))
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
    refused(huge.getvalue())
    with pytest.raises(UserError, match="does not exist"):
        read_reference(tmp_path / "no.npz", 3, EXTRACTOR)

"""Stacked digits and the IDX reader."""

import gzip
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_stores import idx_bytes
from torch.utils.data import DataLoader

from ddgan.data import StackedDigits, StackedMNIST, load_digit_images, read_idx
from ddgan.registry import DATASETS


def write_mnist(folder, joint="-", end="", count=50):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, count, dtype=np.uint8)
    pack = gzip.compress if end else bytes
    for prefix in ("train", "t10k"):
        for stem, values in (("images", images), ("labels", labels)):
            name = f"{prefix}-{stem}{joint}idx{values.ndim}-ubyte{end}"
            (folder / name).write_bytes(pack(idx_bytes(values)))
    return images, labels


def test_digit_splits():
    train, train_labels = load_digit_images("train")
    test, test_labels = load_digit_images("test")
    everything, _ = load_digit_images("all")
    assert (len(train), len(test), len(everything)) == (1438, 359, 1797)
    assert train.dtype == np.uint8
    assert (train.min(), train.max()) == (0, 255)
    assert set(train_labels.tolist()) == set(test_labels.tolist()) == set(range(10))
    ours = sorted(p.tobytes() for p in np.concatenate([train, test]))
    assert ours == sorted(p.tobytes() for p in everything)
    with pytest.raises(ValueError, match="split is 'val'"):
        load_digit_images("val")


def test_items_are_real_digits_with_their_label():
    images, labels = load_digit_images("test")
    known = {}
    for image, label in zip(images, labels, strict=True):
        known.setdefault(image.tobytes(), set()).add(int(label))
    data = DATASETS.build({"type": "StackedDigits", "split": "test", "seed": 5})
    assert data.image_shape == (3, 8, 8)
    for item in data.__getitems__(list(range(100))):
        a, b, c = (known[channel.numpy().tobytes()] for channel in item["x"])
        digits = (item["label"] // 100, item["label"] // 10 % 10, item["label"] % 10)
        assert digits[0] in a
        assert digits[1] in b
        assert digits[2] in c


def test_items_depend_on_seed_and_index_alone():
    data, longer = StackedDigits(seed=1, num_samples=50), StackedDigits(seed=1, num_samples=999)
    batch = longer.__getitems__([7, 49, 7])
    for item in batch:
        assert torch.equal(data[item["index"]]["x"], item["x"])
        assert data[item["index"]]["label"] == item["label"]
    other = StackedDigits(seed=2)
    assert (other.triples(np.arange(50)) != data.triples(np.arange(50))).mean() > 0.9
    digests = {data.digest(), longer.digest(), other.digest(), StackedDigits("test").digest()}
    assert len(digests) == 4
    assert StackedDigits(seed=2).digest() == other.digest()


def test_triples_are_uniform_and_independent():
    data = StackedDigits("train", seed=0)
    n = 200_000
    triples = data.triples(np.arange(n))
    grey = 1438
    for channel in range(3):
        counts = np.bincount(triples[:, channel], minlength=grey)
        chi2 = ((counts - n / grey) ** 2 / (n / grey)).sum()
        # Mean grey - 1, variance 2 (grey - 1): five standard deviations.
        assert abs(chi2 - (grey - 1)) < 5 * np.sqrt(2 * (grey - 1))
    correlation = np.corrcoef(np.column_stack([triples, np.roll(triples, 1, axis=0)]).T)
    assert np.abs(correlation - np.eye(6)).max() < 5 / np.sqrt(n)
    labels = [item["label"] for item in data.__getitems__(list(range(30_000)))]
    assert len(set(labels)) == 1000


def test_out_of_range_and_empty():
    data = StackedDigits(num_samples=3)
    for index in (-1, 3):
        with pytest.raises(IndexError, match=r"outside 0\.\.2"):
            data[index]
    assert len(data.__getitems__([])) == 0
    with pytest.raises(ValueError, match="num_samples is 0"):
        StackedDigits(num_samples=0)


def test_workers_give_the_same_batches():
    data = StackedDigits(num_samples=40)
    ours, theirs = (list(DataLoader(data, 16, num_workers=n)) for n in (0, 2))
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("x", "label", "index"))


@pytest.mark.parametrize(
    ("folder", "joint", "end"), [("", "-", ""), ("raw", "-", ".gz"), ("MNIST/raw", ".", "")]
)
def test_stacked_mnist(tmp_path, folder, joint, end):
    images, labels = write_mnist(tmp_path / folder, joint, end)
    data = StackedMNIST(tmp_path, seed=4, num_samples=30)
    assert len(data) == 30
    assert data.image_shape == (3, 32, 32)
    triples = data.triples(np.arange(30))
    for i, triple in enumerate(triples):
        x = data[i]["x"].numpy()
        np.testing.assert_array_equal(x[:, 2:30, 2:30], images[triple])
        assert x.sum(dtype=int) == images[triple].sum(dtype=int)  # nothing but zeros around
        a, b, c = (int(labels[j]) for j in triple)
        assert data[i]["label"] == 100 * a + 10 * b + c
    assert StackedMNIST(tmp_path, image_size=28).image_shape == (3, 28, 28)
    with pytest.raises(ValueError, match="expected at least 28"):
        StackedMNIST(tmp_path, image_size=27)


def test_stacked_mnist_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="no train-images-idx3-ubyte"):
        StackedMNIST(tmp_path)
    with pytest.raises(ValueError, match="expected 'train' or 'test'"):
        StackedMNIST(tmp_path, split="val")
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(49)))
    with pytest.raises(ValueError, match="50 images and 49 labels"):
        StackedMNIST(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(50, 11)))
    with pytest.raises(ValueError, match=r"one label of 0\.\.9"):
        StackedMNIST(tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans())
def test_idx_round_trip(tmp_path_factory, shape, compress):
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes((gzip.compress if compress else bytes)(idx_bytes(values)))
    np.testing.assert_array_equal(read_idx(path, len(shape)), values)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), compress=st.booleans())
def test_damaged_idx_is_a_value_error(tmp_path_factory, data, compress):
    good = (gzip.compress if compress else bytes)(idx_bytes(np.arange(24).reshape(2, 3, 4)))
    cut = data.draw(st.integers(0, len(good) - 1))
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(good[:cut])
    with pytest.raises(ValueError, match="is not an IDX file of 3-dimensional bytes"):
        read_idx(path, 3)


def test_idx_headers_that_lie(tmp_path):
    path = tmp_path / "file"
    huge = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)
    for content, reason in (
        (huge, "over"),
        (idx_bytes(np.zeros((2, 3))), "begins with 00000802"),
        (b"\0\0\x0d\3" + b"\0" * 12, "begins with 00000d03"),
        (idx_bytes(np.zeros((2, 3, 4))) + b"x", "holds more"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            read_idx(path, 3)

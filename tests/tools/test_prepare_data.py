"""prepare_data.py: every source and form, broken images, what it refuses."""

import hashlib
import json
import os
import pickle

import image_stores
import numpy as np
import pytest
from image_stores import bomb, encoded, idx_bytes
from PIL import Image

from ddgan.data import ImageLMDB, ImageMemmap, ImageZip, StackedMNIST, cifar10

READERS = {"zip": ImageZip, "lmdb": ImageLMDB, "npy": ImageMemmap}
RNG = np.random.default_rng


def values_of(i, height=8, width=8):
    return image_stores.values_of(i, height, width)


def make_folder(path, count):
    image_stores.make_folder(
        path, {f"{i % 3}/{i:04d}.png": encoded(values_of(i)) for i in range(count)}
    )
    order = sorted(range(count), key=lambda i: (i % 3, i))
    return [values_of(i) for i in order], None


def make_zip(path, count):
    labels = [[f"{i:04d}.png", 7 * i] for i in range(count)]
    files = {name: encoded(values_of(i)) for i, (name, _) in enumerate(labels)}
    image_stores.make_zip(path, {**files, "dataset.json": json.dumps({"labels": labels})})
    return [values_of(i) for i in range(count)], [7 * i for i in range(count)]


def make_raw_lmdb(path, count):
    image_stores.make_lmdb(path, {str(i): values_of(i).tobytes() for i in range(count)})
    return [values_of(i) for i in range(count)], None


def make_encoded_lmdb(path, count):
    image_stores.make_lmdb(path, {str(i): encoded(values_of(i)) for i in range(count)})
    return [values_of(i) for i in range(count)], None


def make_cifar(path, count):
    folder = path / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, labels = [], []
    for name in sorted(cifar10.MD5):
        planes = RNG(len(name)).integers(0, 256, (4, 3072), dtype=np.uint8)
        digits = [1, 2, 3, 9]
        batch = {b"data": planes, b"labels": digits}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        if name.startswith("data"):
            images += [*planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)]
            labels += digits
    return images[:count], labels[:count]


def make_mnist(path, count):
    path.mkdir()
    digits = RNG(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = [i % 10 for i in range(count)]
    (path / "train-images-idx3-ubyte").write_bytes(idx_bytes(digits))
    (path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.array(labels)))
    return [np.stack([d] * 3, axis=-1) for d in digits], labels


LOAD = cifar10._load_batch


@pytest.fixture(autouse=True)
def no_published_digests(monkeypatch):
    monkeypatch.setattr(cifar10, "_load_batch", lambda path, verify: LOAD(path, False))


def tree(path):
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {
        p: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).digest())
        for p in files
        if p.is_file()
    }


@pytest.mark.parametrize(
    ("make", "ending"),
    [
        (make_folder, "zip"),
        (make_folder, "lmdb"),
        (make_folder, "npy"),
        (make_zip, "zip"),
        (make_zip, "lmdb"),
        (make_zip, "npy"),
        (make_raw_lmdb, "zip"),
        (make_encoded_lmdb, "lmdb"),
        (make_cifar, "lmdb"),
        (make_mnist, "zip"),
    ],
)
def test_contents_and_labels_are_kept(tmp_path, call_tool, make, ending):
    images, labels = make(tmp_path / "source.d", 15)
    before = tree(tmp_path / "source.d")
    made = tmp_path / "made" / f"images.{ending}"
    status, output = call_tool("prepare_data", tmp_path / "source.d", made, "--workers", 0)
    assert status == 0, output
    data = READERS[ending](made)
    assert len(data) == (15 if make is not make_cifar else 20)
    for i, image in enumerate(images):
        item = data[i]
        np.testing.assert_array_equal(item["x"].permute(1, 2, 0).numpy(), image)
        assert item.get("label") == (labels[i] if labels else None)
    assert tree(tmp_path / "source.d") == before
    expected = {made.name, f"{made.name}.json"}
    if ending == "npy" and labels:
        expected.add("images.labels.npy")
    assert {p.name for p in made.parent.iterdir()} == expected


def test_prepared_again_from_any_form_is_the_same(tmp_path, call_tool):
    make_zip(tmp_path / "a.zip", 140)
    digests = set()
    for source, made in (("a.zip", "b.npy"), ("b.npy", "c.lmdb"), ("c.lmdb", "d.zip")):
        call_tool("prepare_data", tmp_path / source, tmp_path / made, "--workers", 1)
        digests.add(json.loads((tmp_path / f"{made}.json").read_text())["sha256"])
    assert len(digests) == 1
    assert ImageZip(tmp_path / "d.zip").labels == [7 * i for i in range(140)]
    # The same bytes whenever it is made.
    call_tool("prepare_data", tmp_path / "c.lmdb", tmp_path / "e.zip", "--workers", 0)
    assert (tmp_path / "e.zip").read_bytes() == (tmp_path / "d.zip").read_bytes()


def test_crop_resize_and_transparency(tmp_path, call_tool):
    (tmp_path / "in").mkdir()
    values = RNG(0).integers(0, 256, (20, 31, 4), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "in" / "a.png")
    assert call_tool("prepare_data", tmp_path / "in", tmp_path / "a.npy", "--size", 5)[0] == 0
    alpha = values[..., 3:] / 255.0
    over_white = np.rint(values[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    square = Image.fromarray(over_white[:, 5:25])
    expected = np.asarray(square.resize((5, 5), Image.Resampling.LANCZOS)).astype(int)
    found = ImageMemmap(tmp_path / "a.npy")[0]["x"].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - expected).max() <= 1
    # Of the whole image every pixel counts: shrinking averages.
    tool = ("prepare_data", tmp_path / "in", tmp_path / "b.npy", "--size", 1)
    assert call_tool(*tool, "--resample", "box")[0] == 0
    found = ImageMemmap(tmp_path / "b.npy")[0]["x"].flatten().numpy()
    np.testing.assert_allclose(found, over_white[:, 5:25].mean((0, 1)), atol=1)
    call_tool("prepare_data", tmp_path / "in", tmp_path / "c.npy", "--size", 10, "--crop", "none")
    assert ImageMemmap(tmp_path / "c.npy").image_shape == (3, 10, 16)
    call_tool("prepare_data", tmp_path / "in", tmp_path / "d.zip", "--channels", 1)
    assert ImageZip(tmp_path / "d.zip", channels=1).image_shape == (1, 20, 20)


def test_stacked_digits(tmp_path, call_tool):
    make_mnist(tmp_path / "mnist", 30)
    call_tool("prepare_data", tmp_path / "mnist", tmp_path / "s.npy", "--stacked", 40)
    data, expected = ImageMemmap(tmp_path / "s.npy"), StackedMNIST(tmp_path / "mnist")
    assert len(data) == 40
    for i in range(40):
        assert (data[i]["x"] == expected[i]["x"]).all()
        assert data[i]["label"] == expected[i]["label"]


def test_broken_images_are_named_and_left_out(tmp_path, call_tool):
    make_folder(tmp_path / "in", 20)
    (tmp_path / "in" / "0" / "0003.png").write_bytes(b"")
    (tmp_path / "in" / "2" / "0005.png").write_bytes(encoded(values_of(5))[:-50])
    (tmp_path / "in" / "2" / "bomb.png").write_bytes(bomb())
    (tmp_path / "in" / "2" / "c.heic").write_bytes(b"x")
    made = tmp_path / "made.zip"
    status, output = call_tool("prepare_data", tmp_path / "in", made, "--workers", 2)
    assert status == 0
    assert "takes its place" not in output
    assert "left out, unreadable: 3" in output
    assert "left out: 1 .heic files (2/c.heic)" in output
    for name in ("0/0003.png", "2/0005.png", "2/bomb.png"):
        assert name in output
    assert "9000x9000 is over the limit" in output
    assert len(ImageZip(made)) == 18
    assert "in 0/" not in output
    record = json.loads((tmp_path / "made.zip.json").read_text())
    assert record["left_out"] == {".heic files": ["2/c.heic"]}
    skipped = record["skipped"]
    assert [os.path.basename(name) for name, _ in skipped] == ["0003.png", "0005.png", "bomb.png"]
    # A second call finds it done, and says the same.
    again = call_tool("prepare_data", tmp_path / "in", made)[1]
    assert "21 were there from before" in again.replace("21 images", "")
    assert "left out, unreadable: 3" in again


def test_what_cannot_be(tmp_path, call_tool):
    make_folder(tmp_path / "in", 2)
    (tmp_path / "in" / "0" / "0000.png").write_bytes(encoded(values_of(0, 6, 6)))

    def fails(message, source, made, *options):
        status, output = call_tool("prepare_data", tmp_path / source, tmp_path / made, *options)
        assert status in (1, 2)
        assert message in output
        assert "Traceback" not in output

    fails("have different sizes", "in", "a.zip")
    fails("--size N", "in", "a.zip")
    fails("expected a name that ends in .zip .lmdb .npy", "in", "a.tar", "--size", 4)
    fails("expected a name that ends in .npy, for", "in", "a.zip", "--format", "memmap")
    fails("does not exist", "none", "a.zip")
    fails("which is only read; move DST out", "in", "in/a.zip", "--size", 4)
    fails("has no MNIST", "in", "a.zip", "--stacked", 3)
    fails("--size is 0", "in", "a.zip", "--size", 0)
    (tmp_path / "notes.txt").write_text("x")
    fails("neither a folder nor a zip", "notes.txt", "a.zip")
    (tmp_path / "empty").mkdir()
    fails("there are no images in", "empty", "a.zip")
    (tmp_path / "empty" / "a.png").write_bytes(b"x")
    fails("none of the 1 images of", "empty", "a.zip", "--size", 4)


def test_limit(tmp_path, call_tool):
    make_zip(tmp_path / "a.zip", 9)
    call_tool("prepare_data", tmp_path / "a.zip", tmp_path / "b.zip", "--limit", 4)
    assert ImageZip(tmp_path / "b.zip").labels == [0, 7, 14, 21]

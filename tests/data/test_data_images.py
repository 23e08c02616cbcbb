"""Folders, zips and LMDBs of images: contents, damage, limits and worker processes."""

import json
import os
import pickle
import struct
import zipfile

import lmdb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_stores import SIZE, bomb, encoded, images, make_folder, make_lmdb, make_zip, values_of
from torch.utils.data import DataLoader

from ddgan.data import ImageFolder, ImageLMDB, ImageZip, TooManyUnreadableError, lmdb_images
from ddgan.data.storage import PatientFile
from ddgan.registry import DATASETS

STORES = pytest.mark.parametrize("make", [make_folder, make_zip, make_lmdb])


@STORES
def test_contents_and_order(tmp_path, make):
    path = tmp_path / "data"
    data = make(path, images(12))(path, image_size=SIZE)
    assert len(data) == 12
    assert data.image_shape == (3, SIZE, SIZE)
    for i in range(12):
        assert data[i]["x"].dtype == torch.uint8
        np.testing.assert_array_equal(data[i]["x"].permute(1, 2, 0).numpy(), values_of(i))
        assert data[i]["index"] == i
        assert "label" not in data[i]
    assert data.image_name(3).endswith("03.png")
    with pytest.raises(IndexError):
        data[12]
    grey = type(data)(path, channels=1)
    assert grey.image_shape == (1, SIZE, SIZE)
    assert abs(int(grey[0]["x"][0, 0, 0]) - values_of(0)[0, 0] @ [0.299, 0.587, 0.114]) <= 1
    with pytest.raises(ValueError, match="channels is 4"):
        type(data)(path, channels=4)


@pytest.mark.parametrize(
    ("make", "context"),
    [(make_folder, "fork"), (make_zip, "fork"), (make_lmdb, "fork"), (make_lmdb, "spawn")],
)
def test_workers_give_the_same(tmp_path, make, context):
    path = tmp_path / "data"
    files = images(10)
    files["04.png"] = files["04.png"][:-60]
    data = make(path, files)(path)
    expected = list(DataLoader(data, 3))  # opens handles that the workers inherit
    number = 2 if context == "fork" else 1
    workers = DataLoader(data, 3, num_workers=number, multiprocessing_context=context)
    for ours, theirs in zip(expected, workers, strict=True):
        assert torch.equal(ours["x"], theirs["x"])
        assert torch.equal(ours["index"], theirs["index"])
    assert torch.equal(data[0]["x"], expected[0]["x"][0])


@STORES
def test_unreadable_is_replaced_logged_once_and_counted(tmp_path, make, log):
    path = tmp_path / "data"
    files = images(30)
    broken = {"07.png": files["07.png"][:-60], "08.png": b"", "29.png": bomb()}
    data = make(path, {**files, **broken})(path)
    for _ in range(2):
        assert [data[i]["index"] for i in (6, 7, 8, 9, 29)] == [6, 9, 9, 9, 0]
    np.testing.assert_array_equal(data[7]["x"].permute(1, 2, 0).numpy(), values_of(9))
    assert len(log) == 3
    for name, message in zip(broken, log, strict=True):
        assert f"{name} (" in message
    assert "9000x9000 is over the limit of 67108864 pixels" in log[2]
    assert [name[-6:] for name in data.unreadable] == list(broken)


def test_an_unreadable_image_is_not_tried_again(tmp_path):
    make_folder(tmp_path, {**images(20), "01.png": b""})
    data = ImageFolder(tmp_path)
    assert data[1]["index"] == 2
    (tmp_path / "01.png").write_bytes(encoded(values_of(1)))
    # Order must not change within a run.
    assert data[1]["index"] == 2
    assert ImageFolder(tmp_path)[1]["index"] == 1


def test_reading_in_a_forked_process_moves_no_position_here(tmp_path):
    make_zip(tmp_path / "a.zip", images(4))
    data = ImageZip(tmp_path / "a.zip")
    with data._zip().open("00.png") as file:
        start = file.read(10)
        list(DataLoader(data, 2, num_workers=1))
        assert start + file.read() == encoded(values_of(0))


@STORES
def test_too_many_unreadable_stop_with_a_summary(tmp_path, make):
    path = tmp_path / "data"
    files = images(20)
    for i in (1, 3, 6):
        files[f"{i:02d}.png"] = b"\x89PNG broken"
    data = make(path, files)(path, max_unreadable=2)
    assert [data[i]["index"] for i in (0, 1, 2, 3)] == [0, 2, 2, 4]
    with pytest.raises(TooManyUnreadableError, match=r"3 of 20 .*01.png.*03.png.*06.png.*Repair"):
        data[6]
    with pytest.raises(TooManyUnreadableError, match="2 of 2 images are unreadable"):
        make(tmp_path / "none", {"00.png": b"x", "01.png": b"y"})(tmp_path / "none")


def test_workers_count_together(tmp_path):
    files = images(24)
    files.update({f"{i:02d}.png": b"broken" for i in (1, 2, 10, 11)})
    make_folder(tmp_path, files)
    data = ImageFolder(tmp_path, max_unreadable=4)
    for _ in range(2):
        indices = [b["index"].tolist() for b in DataLoader(data, 3, num_workers=2)]
    assert indices[:4] == [[0, 3, 3], [3, 4, 5], [6, 7, 8], [9, 12, 12]]
    assert len(data.unreadable) == 4
    strict = ImageFolder(tmp_path, max_unreadable=3)
    batches = iter(DataLoader(strict, 3, num_workers=2))
    with pytest.raises(TooManyUnreadableError, match="4 of 24"):
        list(batches)
    # Now rather than when the garbage is collected, where it waits for a time-out.
    batches._shutdown_workers()


@STORES
def test_wrong_size_stops_at_construction(tmp_path, make):
    path = tmp_path / "data"
    dataset = make(path, {"a.png": encoded(values_of(0, 7, 9)), "b.png": encoded(values_of(1))})
    with pytest.raises(ValueError, match=r"a.png: it is 9x7 .* expected 6x6; bring .*Resize"):
        dataset(path, image_size=6)
    with pytest.raises(ValueError, match=r"b.png: it is 6x6 .* expected 9x7"):
        dataset(path)
    with pytest.raises(ValueError, match=r"a.png: CentreCrop\(size=8\): the image is only 9x7"):
        dataset(path, pipeline=[{"type": "CentreCrop", "size": 8}])
    pipeline = [{"type": "CentreCrop"}, {"type": "Resize", "size": 6}]
    data = dataset(path, pipeline=pipeline, image_size=6)
    assert [item["x"].shape[1:] for item in (data[0], data[1])] == [(6, 6)] * 2
    assert (
        data.digest()
        != dataset(path, pipeline=[{"type": "Resize", "size": 6}, pipeline[0]]).digest()
    )


def test_a_late_wrong_size_is_replaced(tmp_path, log):
    make_folder(tmp_path, {**images(20), "01.png": encoded(values_of(1, 5, 5))})
    data = ImageFolder(tmp_path)
    assert data[1]["index"] == 2
    assert "01.png (it is 5x5" in log[0]


@STORES
def test_digest_and_pickling(tmp_path, make):
    path, other = tmp_path / "data", tmp_path / "other"
    data = make(path, images(5))(path)
    data[0]
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[2]["x"], data[2]["x"])
    assert again.digest() == data.digest()
    assert make(other, images(6))(other).digest() != data.digest()


@STORES
def test_missing_paths(tmp_path, make):
    dataset = make(tmp_path / "data", images(1))
    with pytest.raises(FileNotFoundError, match=r"absent .*; set "):
        dataset(tmp_path / "absent")


def test_folder_listing(tmp_path):
    names = ["b/x.PNG", "a/z.jpg", "a/y.jpeg", "c.webp", "b.bmp", "d/e/f.tiff", "g.tif"]
    forms = ["PNG", "JPEG", "JPEG", "WEBP", "BMP", "TIFF", "TIFF"]
    files = {n: encoded(values_of(0), f) for n, f in zip(names, forms, strict=True)}
    hidden = dict.fromkeys([".hidden.png", "._c.png", ".git/a.png", "notes.txt"], b"x")
    make_folder(tmp_path, {**files, **hidden})
    data = DATASETS.build({"type": "ImageFolder", "root": str(tmp_path)})
    assert data.paths == sorted(names)
    assert len([data[i] for i in range(7)]) == 7
    assert data.unreadable == []


def test_folder_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"no images in .* expected files that end in"):
        ImageFolder(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="is not a folder; for a zip file use"):
        ImageFolder(tmp_path / "a.zip")
    make_folder(tmp_path, images(1))
    with pytest.raises(TypeError, match="pipline"):
        DATASETS.build({"type": "ImageFolder", "root": str(tmp_path), "pipline": []})


def labelled(tmp_path, labels, name="l.zip"):
    files = {f"00000/img{i:08d}.png": encoded(values_of(i)) for i in range(3)}
    make_zip(tmp_path / name, {**files, "dataset.json": json.dumps({"labels": labels})})
    return tmp_path / name


def test_zip_labels(tmp_path):
    listed = [[f"00000/img{i:08d}.png", 5 - i] for i in (2, 0, 1)]
    path = labelled(tmp_path, listed)
    assert [ImageZip(path)[i]["label"] for i in range(3)] == [5, 4, 3]
    assert "label" not in ImageZip(path, use_labels=False)[0]
    assert "label" not in ImageZip(labelled(tmp_path, None, "n.zip"))[0]
    for i, bad in enumerate((listed[:2], [[n, float(x)] for n, x in listed], 3, [[1]])):
        with pytest.raises(ValueError, match=r"dataset.json in .* use_labels=False"):
            ImageZip(labelled(tmp_path, bad, f"{i}.zip"))


def test_zip_bad_input(tmp_path, log):
    with pytest.raises(FileNotFoundError, match="is not a file; for a folder use"):
        ImageZip(tmp_path)
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match=r"is not a whole zip file"):
        ImageZip(path)
    make_zip(path, {"__MACOSX/a.png": b"", "a.txt": b""})
    with pytest.raises(ValueError, match="no images in"):
        ImageZip(path)
    make_zip(path, images(20))
    good = encoded(values_of(4))
    path.write_bytes(path.read_bytes().replace(good, good[:-9] + b"123456789"))
    assert ImageZip(path)[4]["index"] == 5
    assert "Bad CRC-32" in log[0]


def test_zip_bomb_is_not_unpacked(tmp_path, log, monkeypatch):
    monkeypatch.setattr("ddgan.data.zip_images.MAX_FILE_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("00.png", encoded(values_of(0)))
        file.writestr("01.png", b"\0" * 1_000_000)
    assert ImageZip(tmp_path / "a.zip")[1]["index"] == 0
    assert "unpacks to 1000000 bytes, over the limit" in log[0]


def test_lmdb_raw_and_numbered(tmp_path):
    path = tmp_path / "raw.lmdb"
    make_lmdb(path, {str(i): values_of(i).tobytes() for i in range(12)})
    data = ImageLMDB(path, num_images=11)
    assert len(data) == 11
    # Numeric order: sorted as text, "10" would come third.
    for i in (0, 2, 10):
        np.testing.assert_array_equal(data[i]["x"].permute(1, 2, 0).numpy(), values_of(i))
    assert {p.name for p in path.iterdir()} <= {"data.mdb", "lock.mdb"}
    assert len(ImageLMDB(path / "data.mdb")) == 12
    for count in (0, 13):
        with pytest.raises(ValueError, match=f"has 12 entries, but num_images={count}"):
            ImageLMDB(path, num_images=count)


def test_lmdb_encoded_in_key_order(tmp_path):
    path = tmp_path / "lsun"
    make_lmdb(path, {f"{k}f{k}": encoded(values_of(i), "WEBP") for i, k in enumerate("cab")})
    data = ImageLMDB(path, num_images=2)
    assert [data.image_name(i)[-3:] for i in range(2)] == ["afa", "bfb"]


def test_lmdb_bad_input(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(ValueError, match="cannot be read as an LMDB of images"):
        ImageLMDB(tmp_path)
    make_lmdb(tmp_path / "empty", {})
    with pytest.raises(ValueError, match="empty is empty; set path"):
        ImageLMDB(tmp_path / "empty")


@pytest.mark.parametrize("start", [b"BM", b"RIFF", b"\xff\xd8\xff", b"II*\0"])
def test_lmdb_raw_images_may_begin_like_encoded_ones(tmp_path, start):
    raw = start + values_of(0).tobytes()[len(start) :]
    make_lmdb(tmp_path / "raw.lmdb", {"0": values_of(1).tobytes(), "1": raw})
    data = ImageLMDB(tmp_path / "raw.lmdb")
    assert data[1]["x"].permute(1, 2, 0).numpy().tobytes() == raw
    # And an encoded image may have the length of a raw one.
    content = encoded(values_of(3), "BMP")
    side = next(s for s in range(100) if 3 * s * s >= len(content))
    make_lmdb(tmp_path / "bmp.lmdb", {"0": content + bytes(3 * side * side - len(content))})
    assert ImageLMDB(tmp_path / "bmp.lmdb").image_shape == (3, SIZE, SIZE)


def test_the_digest_of_an_lmdb_follows_its_content(tmp_path):
    """Raw images make files of the same size whatever they show."""
    digests = set()
    for name, changed in {"a": None, "b": 0, "c": 700, "d": 1199}.items():
        files = {str(i): bytes(12) for i in range(1200)}
        if changed is not None:
            # Between those that are looked at, a change of one image alone goes unnoticed.
            files |= {str(i): bytes([7] * 12) for i in range(changed, min(changed + 13, 1200))}
        make_lmdb(tmp_path / name, files)
        digests.add(ImageLMDB(tmp_path / name).digest())
    assert len(digests) == 4
    make_lmdb(tmp_path / "e", {str(i): bytes(12) for i in range(1200)})
    assert ImageLMDB(tmp_path / "e").digest() in digests
    (tmp_path / "e" / "dataset.json").write_text(
        json.dumps({"labels": [[str(i), 0] for i in range(1200)]})
    )
    assert ImageLMDB(tmp_path / "e").digest() not in digests


def test_lmdb_labels(tmp_path):
    make_lmdb(tmp_path / "a.lmdb", {str(i): values_of(i).tobytes() for i in range(3)})
    assert "label" not in ImageLMDB(tmp_path / "a.lmdb")[0]
    path = tmp_path / "a.lmdb" / "dataset.json"
    path.write_text(json.dumps({"labels": [["2", 4], ["0", 6], ["1", 5]]}))
    assert [ImageLMDB(tmp_path / "a.lmdb")[i]["label"] for i in range(3)] == [6, 5, 4]
    path.write_text(json.dumps({"labels": [["2", 4]]}))
    with pytest.raises(ValueError, match="does not give an integer label for each image"):
        ImageLMDB(tmp_path / "a.lmdb")


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "b/../../a.png", "C:/a.png", "..\\a.png"])
def test_zip_that_leads_elsewhere_is_refused(tmp_path, name):
    make_zip(tmp_path / "a.zip", {"0.png": encoded(values_of(0)), name: encoded(values_of(1))})
    with pytest.raises(ValueError, match="leads out of the zip's folder"):
        ImageZip(tmp_path / "a.zip")


def test_linked_folders_are_read_once(tmp_path, log):
    make_folder(tmp_path / "elsewhere", {"a/00.png": encoded(values_of(0))})
    root = tmp_path / "root"
    make_folder(root, {"b/01.png": encoded(values_of(1))})
    (root / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (root / "b" / "up").symlink_to(root)
    (root / "twice").symlink_to(root / "b")
    data = ImageFolder(root)
    assert (data.paths, data.num_links) == (["a/00.png", "b/01.png"], 1)
    assert "2 linked folders that are read already (twice, ...)" in log[0]


def test_what_a_folder_leaves_out_is_told(tmp_path, log, monkeypatch):
    root = tmp_path / "root"
    names = ["a.gif", "b.AVIF", "c.heic", "d.heic", "e", ".f.png", "g/closed/h.png"]
    make_folder(root, {**images(3), **dict.fromkeys(names, b"x")})
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "pipe.png")
    scandir = os.scandir

    def deny(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    # The tests may run as root, from whom nothing is closed.
    monkeypatch.setattr(os, "scandir", deny)
    assert len(ImageFolder(root)) == 3
    for text in (
        "1 .avif files (b.AVIF)",
        "1 .gif files (a.gif)",
        "2 .heic files (c.heic, ...)",
        "1 files without an ending (e)",
        "1 folders that may not be opened (g/closed)",
        "1 hidden",
        "2 links that lead nowhere (gone.png, ...)",
        "1 no regular files (pipe.png)",
    ):
        assert text in log[0]
    with pytest.raises(ValueError, match=r"no images in .*left out: 1 \.heic files"):
        ImageFolder(make_only(tmp_path / "other", "a.heic"))


def make_only(root, name):
    make_folder(root, {name: b"x"})
    return root


def test_other_endings_of_jpeg(tmp_path):
    names = ["a.jfif", "b.jpe", "c.JPEG"]
    make_folder(tmp_path, {name: encoded(values_of(0), "JPEG") for name in names})
    assert ImageFolder(tmp_path).paths == names


def test_names_that_are_no_utf8_can_be_printed(tmp_path):
    name = os.fsdecode(b"\xff.png")
    make_folder(tmp_path, {name: encoded(values_of(0)), "b.png": encoded(values_of(0))})
    data = ImageFolder(tmp_path)
    assert [data.image_name(i)[-8:] for i in range(2)][1] == "\\xff.png"
    assert len(data.digest()) == 64


@pytest.mark.parametrize("top", ["", "top/"])
@pytest.mark.parametrize("make", [make_folder, make_zip])
def test_labels_beside_the_images(tmp_path, make, top, log):
    path = tmp_path / "data"
    labels = [["cat/1.png", 3], ["dog/0.png", 8]]
    files = {f"{top}{name}": encoded(values_of(label)) for name, label in labels}
    files[f"{top}dataset.json"] = json.dumps({"labels": labels}).encode()
    dataset = make(path, files)
    assert [dataset(path)[i]["label"] for i in range(2)] == [3, 8]
    assert "label" not in dataset(path, use_labels=False)[0]
    assert log == []
    digest = dataset(path).digest()
    files[f"{top}dataset.json"] = json.dumps({"labels": [[n, 1] for n, _ in labels]}).encode()
    assert make(path, files)(path).digest() != digest
    files[f"{top}dataset.json"] = b'{"images": []}'
    assert "label" not in make(path, files)(path)[0]
    assert "has no 'labels'" in log[0]
    files[f"{top}dataset.json"] = json.dumps({"labels": labels[:1]}).encode()
    with pytest.raises(ValueError, match=r"dataset.json in .*dog/0.png.*use_labels=False"):
        make(path, files)(path)


def test_labels_that_contradict_each_other_are_not_used(tmp_path, log):
    files = {"a/0.png": encoded(values_of(0)), "b/0.png": encoded(values_of(1))}
    for folder in "ab":
        files[f"{folder}/dataset.json"] = json.dumps({"labels": [["0.png", 1]]})
    make_zip(tmp_path / "a.zip", files)
    assert "label" not in ImageZip(tmp_path / "a.zip")[0]
    assert "2 files dataset.json side by side" in log[0]


def test_zips_of_windows(tmp_path, log):
    files = {f"p\\{name}": content for name, content in images(3).items()}
    files["p\\dataset.json"] = json.dumps({"labels": [[f"0{i}.png", i] for i in range(3)]})
    files["__MACOSX\\p\\._00.png"] = b"junk"
    files["Thumbs.db"] = b"junk"
    make_zip(tmp_path / "a.zip", files)
    data = ImageZip(tmp_path / "a.zip")
    assert data.names == ["p/00.png", "p/01.png", "p/02.png"]
    assert [data[i]["label"] for i in range(3)] == [0, 1, 2]
    assert log == [f"zip {tmp_path}/a.zip: 3 images; left out: 1 .db files (Thumbs.db), 1 hidden"]


@pytest.mark.parametrize(
    ("offsets", "value", "message"),
    [((8, 10), 9, "method deflate64"), ((8, 10), 93, "method"), ((6, 8), 1, "is encrypted")],
)
def test_zips_that_python_cannot_unpack(tmp_path, offsets, value, message):
    make_zip(tmp_path / "a.zip", images(3))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for magic, offset in zip((b"PK\3\4", b"PK\1\2"), offsets, strict=True):
        position = content.find(magic)
        while position >= 0:
            struct.pack_into("<H", content, position + offset, value)
            position = content.find(magic, position + 4)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=rf"00.png' in .*{message}.*unpack the zip"):
        ImageZip(tmp_path / "a.zip")


@STORES
def test_when_nothing_can_be_read_the_first_reason_is_shown(tmp_path, make):
    path = tmp_path / "data"
    dataset = make(path, {f"{i:02d}.png": bomb() for i in range(3)})
    with pytest.raises(TooManyUnreadableError, match=r"first reason: .*00.png: .*9000x9000"):
        dataset(path)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=9_000), min_size=1),
    st.integers(0, 400),
)
def test_the_lmdb_reader_against_the_library(tmp_path_factory, values, more):
    """Every tree shape: values in leaves and on pages of their own, deleted and replaced ones."""
    path = tmp_path_factory.mktemp("lmdb")
    with lmdb.open(str(path), map_size=1 << 26) as environment:
        with environment.begin(write=True) as transaction:
            for i in range(more):
                transaction.put(b"%05d" % i, bytes(i % 256 for i in range(i * 37 % 5000)))
        with environment.begin(write=True) as transaction:
            for i in range(0, more, 3):
                transaction.delete(b"%05d" % i)
            for key, value in values.items():
                transaction.put(key, value)
        with environment.begin() as transaction:
            expected = list(transaction.cursor())
    file = PatientFile(path / "data.mdb")
    entries = list(lmdb_images._entries(file))
    assert [(e.key, file.read_at(e.offset, e.size)) for e in entries] == expected


def test_an_lmdb_that_breaks_off_is_refused(tmp_path):
    make_lmdb(tmp_path / "a", {str(i): values_of(i, 40, 40).tobytes() for i in range(30)})
    file = tmp_path / "a" / "data.mdb"
    content = file.read_bytes()
    ImageLMDB(tmp_path / "a")
    for size in (0, 100, 4095, 4096, 8191, 8192, len(content) // 2, len(content) - 4096):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"a cannot be read as an LMDB.*get it again"):
            ImageLMDB(tmp_path / "a")


def test_databases_inside_an_lmdb_are_refused(tmp_path):
    with lmdb.open(str(tmp_path / "a"), max_dbs=2, map_size=1 << 24) as environment:
        inner = environment.open_db(b"train")
        with environment.begin(write=True, db=inner) as transaction:
            transaction.put(b"0", values_of(0).tobytes())
    with pytest.raises(ValueError, match=r"'train' is a database of its own"):
        ImageLMDB(tmp_path / "a")


def test_other_records_of_an_lmdb_are_no_raw_images(tmp_path, log):
    """Twelve bytes could be an image of 2 x 2 pixels, which a resize would bring to any size."""
    files = {f"a{i}": values_of(i).tobytes() for i in range(20)}
    make_lmdb(tmp_path / "a", {**files, "a1": b"twelve bytes"})
    data = ImageLMDB(tmp_path / "a", pipeline=[{"type": "Resize", "size": 6}])
    index = sorted([*files]).index("a1")
    assert data[index]["index"] == index + 1
    assert "a1 (" in log[-1]

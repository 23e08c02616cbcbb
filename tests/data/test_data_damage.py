"""Containers with bytes changed, cut out or repeated: they are read, or end with one line."""

import gzip
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from image_stores import encoded, idx_bytes, images, make_lmdb, values_of

from ddgan.data import CIFAR10, ImageFolder, ImageLMDB, ImageMemmap, ImageZip, read_idx
from ddgan.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of whole containers, by kind."""
    root = tmp_path_factory.mktemp("whole")
    labels = json.dumps({"labels": [[f"0{i}.png", i] for i in range(3)]}).encode()
    zips = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, content in {**images(3), "dataset.json": labels}.items():
                archive.writestr(name, content)
        zips.append(file.getvalue())
    lmdbs = []
    for name, value in (("raw", values_of(0, 60, 60).tobytes()), ("png", encoded(values_of(0)))):
        make_lmdb(root / name, {f"{i}": value for i in range(40)})
        lmdbs.append((root / name / "data.mdb").read_bytes())
    arrays = []
    for array in (np.zeros((5, 3, 6, 6), np.uint8), np.arange(5)):
        file = io.BytesIO()
        np.save(file, array)
        arrays.append(file.getvalue())
    batch = {b"labels": [1, 2, 3], b"data": np.zeros((3, 3072), np.uint8)}
    digits = idx_bytes(np.arange(72).reshape(2, 6, 6))
    forms = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
    return {
        "image": [encoded(values_of(0), form) for form in forms],
        "zip": zips,
        "lmdb": lmdbs,
        "memmap": arrays[:1],
        "labels": arrays[1:],
        "json": [labels],
        "idx": [digits, gzip.compress(digits)],
        "cifar": [pickle.dumps(batch, protocol) for protocol in (0, 2, 4, 5)],
    }


def read_all(kind, root, content, whole):
    """Read all of a container of the given content."""
    file = root / kind
    if kind == "labels":
        file = root / "a.labels.npy"
        (root / "a.npy").write_bytes(whole["memmap"][0])
    elif kind in ("json", "image"):
        file = root / ("dataset.json" if kind == "json" else "01.png")
        for name, image in images(3).items():
            (root / name).write_bytes(image)
    elif kind == "cifar":
        file = root / "test_batch"
    file.write_bytes(content)
    if kind == "idx":
        read_idx(file, 3)
        return
    data = {
        "zip": lambda: ImageZip(file),
        "lmdb": lambda: ImageLMDB(file),
        "memmap": lambda: ImageMemmap(file),
        "labels": lambda: ImageMemmap(root / "a.npy"),
        "json": lambda: ImageFolder(root),
        "image": lambda: ImageFolder(root),
        "cifar": lambda: CIFAR10(root, "test", verify=False),
    }[kind]()
    for i in range(len(data)):
        data[i]
    data.digest()


@pytest.mark.parametrize(
    "kind", ["image", "zip", "lmdb", "memmap", "labels", "json", "idx", "cifar"]
)
def test_damage_ends_with_one_line(tmp_path_factory, whole, monkeypatch, kind):
    monkeypatch.setenv("DDGAN_STORAGE_PATIENCE", "0")

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def check(data):
        content = data.draw(damaged(data.draw(st.sampled_from(whole[kind]))))
        message = ""
        try:
            read_all(kind, tmp_path_factory.mktemp(kind), content, whole)
        except (UserError, ValueError) as error:
            message = str(error)
        assert "\n" not in message

    check()
    for content in whole[kind]:
        read_all(kind, tmp_path_factory.mktemp(kind), content, whole)

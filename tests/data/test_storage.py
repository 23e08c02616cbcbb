"""Storage that is away: waited for, named when it stays away, and never taken for broken data."""

import errno
import json
import os
import pickle
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from image_stores import images, make_folder, make_lmdb, make_zip, values_of
from torch.utils.data import DataLoader

from ddgan.data import ImageMemmap, ImageZip, prepare, storage
from ddgan.data.sources import open_source
from ddgan.data.storage import PatientFile, StorageError, patiently, read_file
from ddgan.errors import UserError

AWAY = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.EPERM, errno.ENOENT]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setenv("DDGAN_STORAGE_PATIENCE", "0.2")
    monkeypatch.setattr(storage, "_FIRST_WAIT", 0.01)


def failing(code, times):
    """A read that fails so often before it succeeds."""
    calls = []

    def read():
        calls.append(None)
        if len(calls) <= times:
            raise OSError(code, os.strerror(code))
        return len(calls)

    return read


@pytest.mark.parametrize("code", AWAY)
def test_a_short_outage_is_waited_for(code, log):
    assert patiently(failing(code, 3), "/mount/a.png") == 4
    failed, came_back = log
    assert f"/mount/a.png cannot be read ({os.strerror(code)})" in failed
    assert "can be read again" in came_back


@pytest.mark.parametrize("code", AWAY)
def test_a_long_outage_is_named(code):
    with pytest.raises(StorageError, match=rf"a\.png.*{os.strerror(code)}.*PATIENCE=SECONDS"):
        patiently(failing(code, 10**9), "a.png")


def test_patience_is_configured(monkeypatch):
    monkeypatch.setenv("DDGAN_STORAGE_PATIENCE", "0")
    start = time.monotonic()
    with pytest.raises(StorageError):
        patiently(failing(errno.EIO, 10**9), "a.png")
    assert time.monotonic() - start < 0.1
    monkeypatch.setenv("DDGAN_STORAGE_PATIENCE", "soon")
    with pytest.raises(UserError, match="DDGAN_STORAGE_PATIENCE is 'soon'; expected a number"):
        patiently(failing(errno.EIO, 10**9), "a.png")


def test_a_removed_file_is_no_outage(tmp_path):
    (tmp_path / "other").write_bytes(b"x")
    with pytest.raises(ValueError, match="was removed"):
        read_file(tmp_path / "a", 10)
    for folder in ("empty", "gone"):
        path = tmp_path / folder / "a"
        if folder == "empty":
            path.parent.mkdir()
        with pytest.raises(StorageError):
            read_file(path, 10)
    (tmp_path / "a").write_bytes(bytes(11))
    with pytest.raises(ValueError, match="over the limit of 10"):
        read_file(tmp_path / "a", 10)


def test_an_open_file_outlives_stale_handles_and_notices_another_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(bytes(range(100)))
    file = PatientFile(path)
    read, failures = os.pread, [OSError(errno.ESTALE, "stale")] * 2

    def pread(*arguments):
        if failures:
            raise failures.pop()
        return read(*arguments)

    monkeypatch.setattr(os, "pread", pread)
    assert file.read_at(10, 5) == bytes(range(10, 15))
    assert pickle.loads(pickle.dumps(file)).read(3) == b"\0\1\2"
    assert (file.seek(-2, os.SEEK_END), file.read(9), file.tell()) == (98, b"cb"[:0] + b"bc", 100)
    path.write_bytes(bytes(50))
    file.close()
    with pytest.raises(StorageError, match="was replaced"):
        file.read_at(0, 1)


def make(kind, path, count=20):
    """A store of ``count`` images of a kind; gives its data set."""
    if kind == "memmap":
        values = np.stack([values_of(i) for i in range(count)])
        np.save(path.with_suffix(".npy"), values.transpose(0, 3, 1, 2).copy())
        return ImageMemmap(path.with_suffix(".npy"))
    if kind == "lmdb":
        return make_lmdb(path, {str(i): values_of(i).tobytes() for i in range(count)})(path)
    return (make_folder if kind == "folder" else make_zip)(path, images(count))(path)


@pytest.fixture
def outage(monkeypatch):
    """Make reading fail until the returned list is empty; each failure takes one entry."""
    failures = []

    def wrap(function):
        def read(*arguments, **options):
            if failures:
                raise failures.pop()
            return function(*arguments, **options)

        return read

    monkeypatch.setattr(os, "pread", wrap(os.pread))
    monkeypatch.setattr(os, "preadv", wrap(os.preadv))
    monkeypatch.setattr(Path, "open", wrap(Path.open))
    return failures


@pytest.mark.parametrize("kind", ["folder", "zip", "lmdb", "memmap"])
def test_no_image_is_lost_by_an_outage(tmp_path, outage, kind):
    data = make(kind, tmp_path / "data")
    outage += [OSError(errno.EIO, "Input/output error")] * 3
    assert (data[7]["x"].permute(1, 2, 0).numpy() == values_of(7)).all()
    assert outage == []
    outage += [OSError(errno.EIO, "Input/output error")] * 10_000
    with pytest.raises(StorageError, match="data"):
        data[9]
    outage.clear()
    # Nothing was counted, and nothing took the place of the image.
    assert data[9]["index"] == 9
    assert getattr(data, "unreadable", []) == []


def test_workers_wait_and_say_who_is_away(tmp_path):
    data = make("folder", tmp_path / "data")
    away = threading.Timer(0.1, lambda: os.rename(tmp_path / "away", tmp_path / "data"))
    os.rename(tmp_path / "data", tmp_path / "away")
    away.start()
    batches = list(DataLoader(data, 5, num_workers=1))
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(20))
    os.rename(tmp_path / "data", tmp_path / "away")
    loader = iter(DataLoader(data, 5, num_workers=1))
    with pytest.raises(StorageError, match="storage is away"):
        list(loader)
    loader._shutdown_workers()


@pytest.mark.parametrize("workers", [0, 2])
def test_prepare_goes_on_after_an_outage(tmp_path, call_tool, monkeypatch, workers):
    make("folder", tmp_path / "data")
    monkeypatch.setattr(prepare, "SHARD", 4)
    source = open_source(tmp_path / "data")
    image = source.image

    def away(index):
        if index == 9:
            os.rename(tmp_path / "data", tmp_path / "away")
        return image(index)

    source.image = away
    with pytest.raises(UserError, match="storage is away"):
        prepare.prepare(
            source, tmp_path / "made.zip", "zip", lambda *_: nullcontext(lambda n: None), 0
        )
    assert not (tmp_path / "made.zip").exists()
    os.rename(tmp_path / "away", tmp_path / "data")
    made = ("prepare_data", tmp_path / "data", tmp_path / "made.zip", "--workers", workers)
    status, output = call_tool(*made, "--crop", "none")
    assert status == 0, output
    record = json.loads((tmp_path / "made.zip.json").read_text())
    assert (record["count"], record["skipped"]) == (20, [])
    assert "8 were there from before" in output


def test_an_outage_while_verifying_costs_no_work(tmp_path, monkeypatch):
    source = make("folder", tmp_path / "data")
    arguments = (source, tmp_path / "made.zip", "zip", lambda *_: nullcontext(lambda n: None))
    with monkeypatch.context() as broken:
        broken.setattr(ImageZip, "_decode", lambda *_: patiently(failing(errno.EIO, 10**9), "z"))
        with pytest.raises(StorageError, match="storage is away"):
            prepare.prepare(*arguments)
    assert prepare.prepare(*arguments).resumed == 20


def test_the_tool_ends_with_one_line(tmp_path, call_tool, monkeypatch):
    make("folder", tmp_path / "data")
    monkeypatch.setattr(os, "stat", lambda *_, **__: failing(errno.ESTALE, 10**9)())
    status, output = call_tool("prepare_data", tmp_path / "data", tmp_path / "made.zip")
    assert status == 1
    assert "Stale file handle" in output
    assert "Traceback" not in output

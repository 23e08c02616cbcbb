import errno
import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ddgan.engine import checkpoint as module
from ddgan.engine import read_checkpoint, read_weights
from ddgan.engine.checkpoint import (
    RELEASE_FORMAT,
    list_checkpoints,
    load_state,
    newest_good_checkpoint,
    save_checkpoint,
)
from ddgan.errors import CheckpointError
from ddgan.utils import files as files_module


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def test_checkpoints_are_listed_by_number(tmp_path):
    for name in ("iter_9.pth", "iter_10.pth", "iter_x.pth", ".iter_11.pth.1.tmp", "iter_1.pth.x"):
        (tmp_path / name).touch()
    assert [p.name for p in list_checkpoints(tmp_path)] == ["iter_9.pth", "iter_10.pth"]
    assert newest_good_checkpoint(tmp_path) is None
    assert newest_good_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("short")])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, error):
    path = tmp_path / "iter_1.pth"
    save_checkpoint(path, {"a": torch.arange(3)})

    def fill_the_disk(content, file):
        Path(file).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(module.torch, "save", fill_the_disk)
    with pytest.raises(CheckpointError, match=r"iter_1\.pth could not be written .*free space"):
        save_checkpoint(path, {"a": torch.zeros(3)})
    assert files(tmp_path) == ["iter_1.pth"]
    assert torch.equal(read_checkpoint(path)["a"], torch.arange(3))


def test_storage_that_is_away_is_waited_for(tmp_path, monkeypatch):
    path, failures = tmp_path / "iter_1.pth", [OSError(errno.ESTALE, "Stale file handle")] * 2
    replace = os.replace

    def blink(*arguments):
        if failures:
            raise failures.pop()
        replace(*arguments)

    monkeypatch.setattr(files_module.os, "replace", blink)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    save_checkpoint(path, {"a": 1})
    assert read_checkpoint(path)["a"] == 1
    failures[:] = [OSError(errno.ESTALE, "Stale file handle")] * 100
    monkeypatch.setenv("DDGAN_STORAGE_PATIENCE", "0")
    with pytest.raises(CheckpointError, match=r"could not be written \(.*Stale"):
        save_checkpoint(path, {"a": 2})
    assert files(tmp_path) == ["iter_1.pth"]


def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "iter_1.pth"
    save_checkpoint(path, {"a": 1})

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"a": 2})
    assert files(tmp_path) == ["iter_1.pth"]
    assert read_checkpoint(path)["a"] == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="permissions"):
        save_checkpoint(tmp_path / "iter_1.pth", {})


def test_altered_bytes_are_noticed(tmp_path):
    path = tmp_path / "iter_1.pth"
    save_checkpoint(path, {"a": torch.arange(5), "b": "text"})
    whole = path.read_bytes()
    # All of the digest, and a third of what is before it.
    for at in [*range(0, len(whole) - 71, 3), *range(len(whole) - 71, len(whole))]:
        altered = bytearray(whole)
        altered[at] ^= 1 << at % 8
        path.write_bytes(altered)
        with pytest.raises(CheckpointError, match=r"iter_1\.pth is (damaged|truncated)"):
            read_checkpoint(path)


def test_the_digest_is_that_of_all_before_it(tmp_path):
    path = tmp_path / "iter_1.pth"
    save_checkpoint(path, {"a": torch.arange(5)})
    body, _, digest = path.read_bytes().rpartition(b"sha256:")
    assert hashlib.sha256(body).hexdigest() == digest.decode()
    # It is the comment of a zip archive that other tools read as before.
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.arange(5))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.decode() == f"sha256:{digest.decode()}"


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "iter_1.pth"
    save_checkpoint(path, {"a": torch.arange(5)})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"iter_1\.pth"):
            read_checkpoint(path)


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("sealed", [True, False])
def test_code_in_a_checkpoint_does_not_run(tmp_path, sealed):
    marker, path = tmp_path / "ran", tmp_path / "iter_1.pth"
    content = {"format": module.CHECKPOINT_FORMAT, "state_dict": {}, "x": Malicious(marker)}
    if sealed:  # Anybody can compute a digest.
        save_checkpoint(path, content)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=False)
    message = "without running code" if sealed else "not a training checkpoint"
    for read in (read_checkpoint, read_weights):
        with pytest.raises(CheckpointError, match=message):
            read(path)
    assert not marker.exists()


def seal(path):
    """Give an archive the digest that a checkpoint has."""
    body = path.read_bytes()[:-2] + (71).to_bytes(2, "little")
    path.write_bytes(body + b"sha256:" + hashlib.sha256(body).hexdigest().encode())


def rewrite(source, target, change, compression=zipfile.ZIP_STORED):
    """Copy an archive, with ``change(entry)`` made to the entry of its first tensor."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for part in old.infolist():
            entry = zipfile.ZipInfo(part.filename)
            entry.compress_type = compression
            content = old.read(part)
            if part.filename.endswith("/data/0"):
                content = change(entry, content)
            new.writestr(entry, content)
    seal(target)


def as_folder(entry, content):
    entry.external_attr = 0x10
    return content


@pytest.mark.parametrize(
    ("change", "compression"),
    [
        (lambda entry, content: bytes(2**24), zipfile.ZIP_DEFLATED),
        (as_folder, zipfile.ZIP_STORED),
    ],
)
def test_archives_that_torch_does_not_write_are_refused(tmp_path, change, compression):
    """A part of 16 MiB of zeros takes 16 kB in the file; one of 16 GiB would take the memory."""
    source, path = tmp_path / "source.pth", tmp_path / "iter_1.pth"
    save_checkpoint(source, {"a": torch.arange(5)})
    rewrite(source, path, change, compression)
    assert path.stat().st_size < 2**17
    with pytest.raises(CheckpointError, match="is not stored as torch does"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [torch.zeros(1), {}, {"format": "other"}])
def test_other_files_are_told_apart(tmp_path, content):
    torch.save(content, tmp_path / "iter_1.pth")
    with pytest.raises(CheckpointError, match=r"not a training checkpoint .*convert_official\.py"):
        read_checkpoint(tmp_path / "iter_1.pth")
    seal(tmp_path / "iter_1.pth")
    with pytest.raises(CheckpointError, match="not a training checkpoint of this project"):
        read_checkpoint(tmp_path / "iter_1.pth")


META = {"iter": 1, "seed": 0, "config": json.dumps({"model": {}})}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"meta": META},
        {"meta": 3, "state_dict": {}},
        {"meta": META, "state_dict": torch.zeros(1)},
        {"meta": {**META, "iter": "first"}, "state_dict": {}},
        {"meta": {"iter": 1, "seed": 0}, "state_dict": {}},
    ],
    ids=range(6),
)
def test_a_sealed_file_without_its_parts_is_named(tmp_path, content):
    path = tmp_path / "iter_1.pth"
    save_checkpoint(path, content)
    with pytest.raises(CheckpointError, match=r"iter_1\.pth lacks a part of a training checkpoint"):
        read_weights(path)


def test_a_missing_file_is_named(tmp_path):
    for name in ("iter_1.pth", "a.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name} does not exist"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "lacks a config"),
        ({"format": "other", "config": "{}"}, "lacks a config"),
        ({"format": RELEASE_FORMAT}, "lacks a config"),
        ({"format": RELEASE_FORMAT, "config": "{"}, "not JSON"),
        ({"format": RELEASE_FORMAT, "config": json.dumps([1])}, "describes no model"),
        ({"format": RELEASE_FORMAT, "config": json.dumps({"model": 3})}, "describes no model"),
    ],
)
def test_odd_release_files_are_refused(tmp_path, metadata, message):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        read_weights(path)


def test_a_damaged_release_file_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    for content in (b"", b"\xff" * 100, b"<html>quota exceeded</html>"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"a\.safetensors is damaged or not"):
            read_weights(path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.ones(2, 3)}, r"lacks \['bias'\]"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "x": 1}, r"unknown \['x'\]"),
        ({"weight": torch.ones(1, 3), "bias": torch.ones(2)}, r"weight is \(1, 3\) in the file"),
        ({"weight": torch.ones(2, 3), "bias": "text"}, "bias is str in the file"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(state, message):
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_state(model, state, "file")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

"""Atomic writes and locks on file systems of all kinds."""

import errno
import os
import subprocess
import sys

import pytest

from ddgan.errors import UserError
from ddgan.utils import files
from ddgan.utils.files import file_sha256, lock, sha256, write_atomically


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch, number):
    fsync = os.fsync

    def refuse(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", refuse)
    write_atomically(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


def test_a_disk_that_fails_is_a_failure(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "a", "text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_work_goes_on(tmp_path, monkeypatch, capsys, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "lockf", refuse)
    with lock(tmp_path / "a.lock", "the folder"):
        pass


def test_another_process_is_named(tmp_path):
    path = tmp_path / "a.lock"
    program = (
        f"from ddgan.utils.files import lock\nwith lock({str(path)!r}, 'it'): print(); input()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with (
            pytest.raises(UserError, match=rf"the folder is in use .*\(process {other.pid} on"),
            lock(path, "the folder"),
        ):
            pass
        other.communicate(b"\n")
    with lock(path, "the folder"):
        pass


def test_digests_are_those_of_hashlib(tmp_path):
    (tmp_path / "a").write_bytes(b"abcdef")
    assert file_sha256(tmp_path / "a") == sha256(b"abc", b"def")
    assert file_sha256(tmp_path / "a", 3) == sha256(b"abc")
    with pytest.raises(OSError, match="shorter"):
        file_sha256(tmp_path / "a", 7)

"""Files that are whole or absent: atomic writes, digests and locks."""

import errno
import fcntl
import hashlib
import os
import re
import socket
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmengine.logging import print_log

from ddgan.errors import CheckpointError, UserError

_CHUNK = 1 << 20
# Libraries quote the content of a damaged file.
_LONGEST_REASON = 300
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
# What file systems answer that do not offer a call at all.
_LOST_WRITES = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT})
UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTSUP})


def write_atomically(path: str | Path, write: Callable[[Path], object] | bytes | str) -> None:
    """Write ``path`` in one step: it holds its old content or the whole new one, never a part.

    ``write`` is the content, or a function that writes it to the temporary path it is called with.
    The folder is made if it is missing. Raises the OSError of a failed write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        if callable(write):
            write(temporary)
        elif isinstance(write, str):
            temporary.write_text(write, encoding="utf-8")
        else:
            temporary.write_bytes(write)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def temporary_path(path: Path) -> Path:
    """The hidden name under which this process writes ``path`` until it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether ``temporary_path`` gives such a name."""
    return _TEMPORARY.fullmatch(path.name) is not None


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk, where the file system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # A folder's entries are in place already; file systems refuse to flush them in many ways.
        supported = error.errno in _LOST_WRITES if path.is_dir() else error.errno not in UNSUPPORTED
        if supported:
            raise


def sha256(*parts: bytes | memoryview) -> str:
    """The SHA-256 of the concatenated parts, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def file_sha256(path: str | Path, size: int | None = None) -> str:
    """The SHA-256 of a file, or of its first ``size`` bytes, in hexadecimal.

    Raises OSError if the file cannot be read or is shorter than ``size``.
    """
    digest = hashlib.sha256()
    left = os.stat(path).st_size if size is None else size
    with open(path, "rb") as file:
        while left > 0:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                raise OSError(f"{path} became shorter while it was read")
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


@contextmanager
def lock(path: str | Path, holder: str) -> Iterator[None]:
    """Hold the lock file ``path`` for this process; raises UserError if another process holds it.

    ``holder`` names what is in use in that error. The lock is a POSIX record lock, which the kernel
    or the file server frees when the process ends in any way: a left-over file blocks nobody.
    Unlike ``flock``, workers of a loader do not inherit it, and NFS passes it between machines.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise UserError(
                    f"{holder} is in use by another process ({file.read().strip()}); wait until "
                    "it ends or stop it, or choose another folder"
                ) from None
            print_log(
                f"{path} cannot be locked ({error}): a second process would go unnoticed", level=30
            )
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {socket.gethostname()}, "
            f"since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        )
        file.flush()
        yield


def check_writable(folder: str | Path) -> None:
    """Raise UserError unless files can be written into a folder, or it can be made.

    A folder that is missing stays so.
    """
    folder = Path(folder)
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be written ({error.strerror}); change its permissions, "
            "remove what is in its place, or choose another one (--work-dir)"
        ) from None


def check_not_a_page(path: Path) -> None:
    """Raise CheckpointError for a web page, which failed downloads leave under a file's name."""
    with open(path, "rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        raise CheckpointError(
            f"{path} is a web page, not weights: its host answered the download with a page (of a "
            "quota, a login or a confirmation); open the link in a browser and save the file itself"
        )


def refusal(error: Exception) -> str:
    """What a library refused: the first line, without torch's advice to load the file unsafely."""
    text = str(error)
    if name := re.search(r"GLOBAL (\S+)", text):
        return f"it names {name[1]}, and only tensors and plain values are read"
    detail = re.search(r"WeightsUnpickler error: *(\S[^\n]*)", text)
    lines = (detail[1] if detail else text).splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= _LONGEST_REASON else f"{lines[0][:_LONGEST_REASON]}…"


def check_archive(path: Path) -> None:
    """Raise CheckpointError unless ``path`` is an archive as torch writes it.

    Its parts are not compressed, so that reading it takes no more memory than its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    # A damaged directory of the archive makes zipfile raise nearly anything.
    except Exception as error:
        reason = refusal(error)
        raise CheckpointError(f"{path} is truncated or not a checkpoint ({reason})") from None
    size = path.stat().st_size
    for part in parts:
        # A part marked as a folder would leave torch's tensor as memory happens to be.
        if part.compress_type != zipfile.ZIP_STORED or part.external_attr & 0x10:
            raise CheckpointError(f"{path}: {part.filename!r} in it is not stored as torch does")
    if sum(part.file_size for part in parts) > size:
        raise CheckpointError(f"{path}: its parts overlap, or claim more than its {size} bytes")

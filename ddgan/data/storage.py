"""Reading from storage that may be away for a while, which says nothing about the data on it."""

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from mmengine.logging import print_log

from ddgan.errors import UserError

_T = TypeVar("_T")
_PATIENCE = 60.0
# Permissions rarely come back by themselves.
_PATIENCE_IF_DENIED = 5.0
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 5.0


class StorageError(UserError):
    """Stored data cannot be reached at the moment; they may be whole."""


def patiently(read: Callable[[], _T], path: str | Path) -> _T:
    """The result of ``read()``, which is called again while it raises OSError.

    The environment variable DDGAN_STORAGE_PATIENCE says for how many seconds (default 60, of
    denied permissions at most 5). Raises StorageError, which names ``path``, after that.
    """
    name, wait, start = printable(path), _FIRST_WAIT, None
    while True:
        try:
            result = read()
        except OSError as error:
            start = start or time.monotonic()
            reason, patience = error.strerror or str(error), _patience(error)
            waited = time.monotonic() - start
            if waited + wait > patience:
                raise StorageError(
                    f"{name} cannot be read ({reason}), also after waiting for {waited:.0f} s: the "
                    "storage is away or access to it is denied. When it is back, the same command "
                    "goes on from what was done; DDGAN_STORAGE_PATIENCE=SECONDS waits longer"
                ) from None
            if wait == _FIRST_WAIT:
                text = f"{name} cannot be read ({reason}): waiting up to {patience:g} s"
                print_log(text, "current", logging.WARNING)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
        else:
            if start is not None:
                text = f"{name} can be read again, after {time.monotonic() - start:.1f} s"
                print_log(text, "current", logging.WARNING)
            return result


def _patience(error: OSError) -> float:
    text = os.environ.get("DDGAN_STORAGE_PATIENCE", "")
    try:
        patience = float(text or _PATIENCE)
    except ValueError:
        raise UserError(
            f"DDGAN_STORAGE_PATIENCE is {text!r}; expected a number of seconds, such as 300"
        ) from None
    denied = error.errno in (errno.EACCES, errno.EPERM)
    return min(patience, _PATIENCE_IF_DENIED) if denied else patience


def read_file(path: Path, limit: int) -> bytes:
    """The content of a file; raises ValueError if it is over ``limit`` bytes or was removed.

    A file counts as removed if its folder is there and holds others. Raises StorageError.
    """

    def read() -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(limit + 1)
        except FileNotFoundError:
            # An unmounted storage leaves an empty folder, or none.
            with os.scandir(path.parent) as others:
                if next(others, None) is not None:
                    raise ValueError("the file was removed") from None
            raise

    content = patiently(read, path)
    if len(content) > limit:
        raise ValueError(f"the file is over the limit of {limit} bytes")
    return content


class PatientFile:
    """A file opened for reading that outlives outages, forks and pickling.

    Its position is this object's own, not the descriptor's, which forked processes share.
    ``size`` is in bytes. Reading raises StorageError when the storage stays away, or when another
    file has taken the place of the one that was opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None
        self._position = 0
        self.size = patiently(lambda: os.fstat(self._open()).st_size, self.path)

    def __reduce__(self) -> tuple:
        return PatientFile, (self.path,)

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``offset``; fewer only at the end of the file."""
        return patiently(lambda: self._attempt(lambda file: _pread(file, count, offset)), self.path)

    def read_rows(self, offsets: Sequence[int], rows: np.ndarray) -> None:
        """Fill each of the ``rows`` (N, bytes) from its offset; StorageError at the file's end."""
        if not patiently(lambda: self._attempt(lambda file: _fill(file, offsets, rows)), self.path):
            raise StorageError(f"{printable(self.path)} became shorter while it was read")

    def read(self, count: int = -1) -> bytes:
        """Up to ``count`` bytes, or all, from the current position."""
        left = max(0, self.size - self._position)
        content = self.read_at(self._position, left if count < 0 else min(count, left))
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position as ``io.IOBase.seek`` does."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, f"negative position {start + offset}")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """The current position."""
        return self._position

    def seekable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Close the descriptor; reading opens the file again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.close()

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor

    def _attempt(self, read: Callable[[int], _T]) -> _T:
        """The result of ``read(descriptor)``, of a descriptor that is opened again if need be."""
        again = self._descriptor is None
        try:
            descriptor = self._open()
            if again and os.fstat(descriptor).st_size != self.size:
                raise StorageError(f"{printable(self.path)} was replaced while it was read")
            return read(descriptor)
        except OSError:
            # The descriptor of a file server that was restarted stays stale.
            self.close()
            raise


def _pread(descriptor: int, count: int, offset: int) -> bytes:
    content = os.pread(descriptor, count, offset)
    # One call gives at most 2 GiB.
    while len(content) < count and (
        more := os.pread(descriptor, count - len(content), offset + len(content))
    ):
        content += more
    return content


def _fill(descriptor: int, offsets: Sequence[int], rows: np.ndarray) -> bool:
    """Whether the file had all that was asked for."""
    reads = zip(offsets, rows, strict=True)
    return all(os.preadv(descriptor, [row], at) == row.nbytes for at, row in reads)


def printable(name: str | Path) -> str:
    """A name for messages: bytes that are no UTF-8, and line ends, are shown as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

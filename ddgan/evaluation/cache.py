"""Files of tensors that are computed again where they cannot be trusted; reading runs no code."""

import json
import logging
import os
import re
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddgan.utils.files import sha256, write_atomically

Tensors = dict[str, Tensor]
_SHARD_FILE = re.compile(r"\.?shard_(\d{6})\.safetensors")


class ShardCache:
    """The shards of one series as files in their own folder below ``root``; None keeps nothing.

    ``identity`` is everything that the series depends on; its SHA-256 names the folder.
    """

    def __init__(self, root: str | Path | None, identity: Mapping[str, Any]):
        self.identity = identity
        self.folder = None if root is None else Path(root) / key_of(identity)

    def read(self, shard: int, length: int) -> Tensors | None:
        """The first ``length`` rows of a shard, or None if they are not there."""
        tensors = load_tensors(self._path(shard), self.identity) if self.folder else None
        if tensors is None or any(len(tensor) < length for tensor in tensors.values()):
            return None
        return {name: tensor[:length] for name, tensor in tensors.items()}

    def write(self, shard: int, tensors: Tensors) -> None:
        """Keep a shard; after a failure no more are tried."""
        if self.folder and not save_tensors(self._path(shard), tensors, self.identity):
            self.folder = None

    def keep(self, count: int) -> None:
        """Keep the first ``count`` shards, or more if an earlier call asked; delete the rest."""
        if self.folder is None or not self.folder.is_dir():
            return
        before = [int(path.name[5:]) for path in self.folder.glob("keep_[0-9]*")]
        if count > max(before, default=0):
            (self.folder / f"keep_{count}").touch()
        self.remove(max([count, *before]))

    def remove(self, first: int = 0) -> None:
        """Delete the shards from ``first`` on, then the folders that are empty."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if (match := _SHARD_FILE.match(path.name)) and int(match[1]) >= first:
                path.unlink(missing_ok=True)
        # Keep non-empty folders; another process may be writing.
        with suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard_{shard:06d}.safetensors"


def cache_root() -> Path:
    """The folder for what is kept between runs: DDGAN_CACHE, or one in the user's cache.

    A user without a home folder, as in some containers, gets one among the temporary files.
    """
    if chosen := os.environ.get("DDGAN_CACHE"):
        return Path(chosen)
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "ddgan"
    try:
        return Path.home() / ".cache" / "ddgan"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return Path(tempfile.gettempdir()) / f"ddgan-{os.getuid()}"


def features_root(checkpoint: str | Path) -> Path:
    """The folder for features of a checkpoint's samples: in DDGAN_CACHE, or next to it."""
    if chosen := os.environ.get("DDGAN_CACHE"):
        return Path(chosen) / "samples"
    return Path(checkpoint).parent / "features"


def key_of(identity: Mapping[str, Any]) -> str:
    """A name for the file or folder that belongs to an identity."""
    return sha256(_text(identity).encode())[:32]


def load_tensors(path: Path, identity: Mapping[str, Any]) -> Tensors | None:
    """The tensors that ``save_tensors`` wrote for ``identity``, or None if there are none.

    Reading runs no code. A file that is damaged or belongs to another identity is named in the log
    and counts as missing.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("identity") != _text(identity):
                raise ValueError("it belongs to other settings")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not tensors or metadata.get("sum") != _checksum(tensors):
            raise ValueError("its content has changed since it was written")
    except (SafetensorError, OSError, ValueError) as error:
        print_log(
            f"{path} cannot be used and is computed again: {error}", "current", logging.WARNING
        )
        return None
    return tensors


def save_tensors(path: Path, tensors: Tensors, identity: Mapping[str, Any]) -> bool:
    """Write tensors on the CPU in one step; on failure warn in the log and return False."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"identity": _text(identity), "sum": _checksum(tensors)}
    try:
        write_atomically(path, lambda part: save_file(tensors, part, metadata=metadata))
    except (SafetensorError, OSError) as error:
        print_log(
            f"{path} cannot be written ({error}), so the next evaluation computes it again; free "
            "space, or set DDGAN_CACHE to another folder",
            "current",
            logging.WARNING,
        )
        return False
    return True


def _text(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)


def _checksum(tensors: Tensors) -> str:
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.numpy().data, value)
    return str(value)

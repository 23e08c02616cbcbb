"""Long series of samples in parts: shared out among processes, and kept on disk until done.

A series is cut into shards of ``SHARD_SIZE``, whatever the number of processes, so that each shard
is computed in the same batches and its result is the same to the bit.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mmengine.dist import gather_object, get_dist_info

from ddgan.evaluation.stored_tensors import Tensors, load_tensors, save_tensors

SHARD_SIZE = 500
_FILE = re.compile(r"\.?shard_(\d{6})\.safetensors(\.\d+\.tmp)?")

_WANTED = "wanted"

Result = TypeVar("Result")


def num_shards(num: int) -> int:
    """Return how many shards a series of ``num`` has."""
    return -(-num // SHARD_SIZE)


def shard_length(num: int, shard: int) -> int:
    """Return how many of a series of ``num`` are in a shard; 0 beyond its end."""
    return max(0, min(SHARD_SIZE, num - shard * SHARD_SIZE))


def own_shards(num: int) -> range:
    """Return the shards of a series of ``num`` that this process computes."""
    rank, world_size = get_dist_info()
    return range(rank, num_shards(num), world_size)


def in_order(num: int, compute: Callable[[int], Result]) -> Iterator[Result]:
    """Yield ``compute(shard)`` of each shard of a series, in order, on the main process.

    All processes compute their own shards in turns, so all of them have to iterate; the others
    get nothing.
    """
    rank, world_size = get_dist_info()
    count = num_shards(num)
    for first in range(0, count, world_size):
        mine = first + rank
        result = compute(mine) if mine < count else None
        everyone = gather_object(result)
        if rank == 0:
            yield from everyone[: count - first]


class ShardCache:
    """The shards of one series as files in a folder of their own below ``root``, None for nowhere.

    ``identity`` is all that the series depends on; its SHA-256 names the folder.
    """

    def __init__(self, root: str | Path | None, identity: Mapping[str, Any]):
        self.identity = identity
        self.folder = None if root is None else Path(root) / key_of(identity)

    def read(self, shard: int, length: int) -> Tensors | None:
        """Return the first ``length`` rows of a shard, or None if they are not there."""
        if self.folder is None:
            return None
        tensors = load_tensors(self._path(shard), self.identity)
        if tensors is None or any(len(tensor) < length for tensor in tensors.values()):
            return None
        return {name: tensor[:length] for name, tensor in tensors.items()}

    def write(self, shard: int, tensors: Tensors) -> None:
        """Keep a shard; after one that cannot be written, no more are tried."""
        if self.folder is not None and not save_tensors(self._path(shard), tensors, self.identity):
            self.folder = None

    def wanted(self, count: int) -> int:
        """Note that ``count`` shards are to stay; return the most that any caller has wanted."""
        if self.folder is None:
            return count
        path = self.folder / _WANTED
        try:
            before = int(path.read_text())
        except (OSError, ValueError):
            before = 0
        if count > before:
            with suppress(OSError):
                path.write_text(f"{count}\n")
        return max(count, before)

    def remove(self, first: int = 0) -> None:
        """Delete the shards from ``first`` on, and the folders that are empty then."""
        if self.folder is None or not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if (match := _FILE.fullmatch(path.name)) and int(match[1]) >= first:
                path.unlink(missing_ok=True)
        # What is not empty stays, be it that another process writes to it at this moment.
        with suppress(OSError):
            self.folder.rmdir()
            self.folder.parent.rmdir()

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard_{shard:06d}.safetensors"


def key_of(identity: Mapping[str, Any]) -> str:
    """Return a name for a file or folder that belongs to an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

"""The folder of work that is not finished: whole parts only, and one process at a time."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddgan.errors import UserError

RECIPE = "recipe.json"


@contextmanager
def locked(stage: Path) -> Iterator[None]:
    """Make the folder and hold it; raises UserError while another process does."""
    stage.mkdir(parents=True, exist_ok=True)
    with (stage / "lock").open("w") as file:
        try:
            # Of the process alone: workers that outlive it for a while do not hold it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process is at work in {stage}; wait for it") from error
        yield


def begin(stage: Path, recipe: dict[str, Any]) -> None:
    """Empty the stage unless it is of the same recipe."""
    path = stage / RECIPE
    if path.exists() and json.loads(path.read_text()) == recipe:
        return
    for old in stage.iterdir():
        if old.name != "lock":
            remove(old)
    write(path, json.dumps(recipe).encode())


def is_whole(shard: Path) -> bool:
    """Whether both files of a shard are there, the content as long as its list says."""
    done, content = shard.with_suffix(".json"), shard.with_suffix(".bin")
    if not (done.exists() and content.exists()):
        return False
    rows = json.loads(done.read_text())
    return content.stat().st_size == sum(row.get("bytes", 0) for row in rows)


def write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.write_bytes(content)
    sync(temporary)
    os.replace(temporary, path)


def sync(path: Path) -> None:
    """Have the content of a file, or of the files of a folder, on the disk."""
    for file in path.iterdir() if path.is_dir() else [path]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

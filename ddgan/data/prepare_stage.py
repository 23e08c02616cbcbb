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
    """Empty the stage unless it is of the same recipe; raises UserError if it is not ours."""
    path = stage / RECIPE
    if _read(path) == recipe:
        return
    others = [old.name for old in stage.iterdir() if old.name != "lock" and old.name[0] != "."]
    if others and not path.exists():
        raise UserError(
            f"{stage} is where unfinished work is kept, but holds other files, such as "
            f"{min(others)}; move them away, or choose another name"
        )
    for old in stage.iterdir():
        if old.name != "lock":
            remove(old)
    write(path, json.dumps(recipe).encode())


def is_whole(shard: Path) -> bool:
    """Whether both files of a shard are there, the content as long as its list says."""
    done, content = shard.with_suffix(".json"), shard.with_suffix(".bin")
    rows = _read(done)
    if not isinstance(rows, list) or not content.exists():
        return False
    return content.stat().st_size == sum(row.get("bytes", 0) for row in rows)


def write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all; raises UserError if it cannot be written."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    with written(path):
        try:
            temporary.write_bytes(content)
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Say of an error in writing ``path`` what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error}); free space there, and start the same command "
            "again: it goes on from here"
        ) from error


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


def _read(path: Path) -> Any:
    """Return what a JSON file holds, None if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None

"""Bringing images into the form that training reads: parallel, restartable, checked at the end.

The work is divided into shards. A worker process decodes, transforms and encodes the images of a
shard and stores them next to the destination, in a folder ``DST.partial``; a shard is there whole
or not at all. When all are there, the destination is put together from them, read again, compared
with what the workers decoded, and only then gets its name. Killed at any moment and started again,
the work goes on from the shards that are there.
"""

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ddgan.data.decoding import encode_png
from ddgan.data.images import ImageDataset
from ddgan.data.labels import Entries
from ddgan.data.lmdb_images import ImageLMDB, encode_for_lmdb, write_lmdb
from ddgan.data.memmap import ImageMemmap, encode_for_memmap, labels_path, write_memmap
from ddgan.data.storage import StorageError
from ddgan.data.workers import reader_context
from ddgan.data.zip_images import ImageZip, write_zip
from ddgan.errors import UserError
from ddgan.utils.files import lock, sha256, sync, write_atomically

SHARD = 128
_VERSION = 1
_RECIPE, _LOCK = "recipe.json", "lock"

# A label and a total, to a context that yields a function that advances the bar.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class Format(NamedTuple):
    """How one image is stored, how a file is put together from many, and how it is read.

    ``write`` takes the path, the encoded images with their labels, and the number, shape (C, H, W)
    and total bytes of them. ``companions`` are files next to the path that belong to it.
    """

    suffix: str
    encode: Callable[[Tensor], bytes]
    write: Callable[[Path, Entries, int, tuple[int, ...], int], None]
    open: Callable[[Path, int], Dataset]
    companions: Callable[[Path], list[Path]] = lambda path: []


FORMATS = {
    "zip": Format(
        ".zip", encode_png, write_zip, lambda path, c: ImageZip(path, channels=c, max_unreadable=0)
    ),
    "lmdb": Format(
        ".lmdb",
        encode_for_lmdb,
        write_lmdb,
        lambda path, c: ImageLMDB(path, channels=c, max_unreadable=0),
    ),
    "memmap": Format(
        ".npy",
        encode_for_memmap,
        write_memmap,
        lambda path, c: ImageMemmap(path),
        lambda path: [labels_path(path)],
    ),
}


class Prepared(NamedTuple):
    """What was made: number, shape and SHA-256 of the images, and those left out, with reasons.

    ``resumed`` images were there from an interrupted run; all of them if nothing was to do.
    """

    path: Path
    count: int
    shape: tuple[int, ...]
    digest: str
    skipped: list[tuple[str, str]]
    resumed: int


class _WorkerDiedError(UserError):
    """A worker process has ended before its work was done."""


def prepare(
    source: ImageDataset,
    destination: str | Path,
    form: str,
    progress: Progress,
    workers: int = 0,
    limit: int | None = None,
) -> Prepared:
    """Store the (first ``limit``) images of ``source`` at ``destination``.

    ``form`` is a key of FORMATS; ``workers`` processes work along with this one, or none. Raises
    UserError where the destination is something else already, another process is making it, the
    source cannot be reached, no image is readable, or what was stored does not read back as what
    was decoded.
    """
    destination = Path(destination)
    count = len(source) if limit is None else min(limit, len(source))
    recipe = {"version": _VERSION, "source": source.digest(), "format": form, "count": count}
    stage = destination.with_name(f"{destination.name}.partial")
    if destination.exists():
        made = _made_before(destination, recipe)
        if (stage / _RECIPE).exists():
            # Killed after the last step but this one; or it is being made at this moment.
            with suppress(UserError), lock(stage / _LOCK, f"{stage}"):
                shutil.rmtree(stage)
        return made
    stage.mkdir(parents=True, exist_ok=True)
    with lock(stage / _LOCK, f"{stage}"):
        _begin(stage, recipe)
        shards = [stage / f"{k:06d}" for k in range((count + SHARD - 1) // SHARD)]
        missing = [k for k, shard in enumerate(shards) if not _is_whole(shard)]
        resumed = sum(min(SHARD, count - k * SHARD) for k in set(range(len(shards))) - {*missing})
        with progress("preparing", count) as advance:
            advance(resumed)
            _run(_ShardWriter(source, FORMATS[form], shards, count), missing, workers, advance)
        rows = [row for s in shards for row in json.loads(s.with_suffix(".json").read_text())]
        made = _finish(source, destination, stage, shards, rows, recipe, progress, workers)
    return made._replace(resumed=resumed)


def _begin(stage: Path, recipe: dict[str, Any]) -> None:
    """Empty the stage unless it is of the same recipe; raises UserError if it is not ours."""
    path = stage / _RECIPE
    if _read_json(path) == recipe:
        return
    others = [old.name for old in stage.iterdir() if old.name != _LOCK and old.name[0] != "."]
    if others and not path.exists():
        raise UserError(
            f"{stage} is where unfinished work is kept, but holds other files, such as "
            f"{min(others)}; move them away, or choose another name"
        )
    for old in stage.iterdir():
        if old.name != _LOCK:
            _remove(old)
    _write(path, json.dumps(recipe))


def _is_whole(shard: Path) -> bool:
    """Whether both files of a shard are there, the content as long as its list says."""
    rows, content = _read_json(shard.with_suffix(".json")), shard.with_suffix(".bin")
    if not isinstance(rows, list) or not content.exists():
        return False
    return content.stat().st_size == sum(row.get("bytes", 0) for row in rows)


def _finish(
    source: ImageDataset,
    destination: Path,
    stage: Path,
    shards: list[Path],
    rows: list[dict[str, Any]],
    recipe: dict[str, Any],
    progress: Progress,
    workers: int,
) -> Prepared:
    skipped = [(row["name"], row["error"]) for row in rows if "error" in row]
    good = [row for row in rows if "error" not in row]
    if not good:
        raise UserError(
            f"none of the {len(rows)} images of {source.name} can be read; the first is "
            f"{skipped[0][0]} ({skipped[0][1]})"
        )
    form, shape = FORMATS[recipe["format"]], tuple(source.image_shape)
    final = stage / f"final{form.suffix}"
    for path in (final, *form.companions(final)):
        _remove(path)
    with progress("writing", len(good)) as advance, _writing(final):
        size = sum(row["bytes"] for row in good)
        form.write(final, _entries(shards, good, advance), len(good), shape, size)
    try:
        _verify(form.open(final, shape[0]), good, progress, workers)
    except (_WorkerDiedError, StorageError):
        raise
    except UserError:
        # One of the stored parts is not what it was: none of them is to be used again.
        _write(stage / _RECIPE, "null")
        raise
    digest = sha256(*(row["sha256"].encode() for row in good))
    record = {"recipe": recipe, "count": len(good), "shape": shape, "sha256": digest}
    record |= {"source": source.name, "skipped": skipped}
    if source.listing is not None:
        record["left_out"] = source.listing.left_out
    _write(_record_path(destination), json.dumps(record, indent=1) + "\n")
    _publish(form, final, destination)
    shutil.rmtree(stage)
    return Prepared(destination, len(good), shape, digest, skipped, 0)


def _verify(reader: Dataset, good: list[dict[str, Any]], progress: Progress, workers: int) -> None:
    if len(reader) != len(good):
        raise UserError(f"{reader.name} has {len(reader)} images, expected {len(good)}")
    with progress("verifying", len(good)) as advance:
        chunks = range((len(good) + SHARD - 1) // SHARD)
        _run(_Verifier(reader, good), chunks, workers, advance)


def _publish(form: Format, final: Path, destination: Path) -> None:
    """Give the files their names, the main one last."""
    parts = zip(form.companions(final), form.companions(destination), strict=True)
    for made, wanted in (*parts, (final, destination)):
        if made.exists():
            for file in made.iterdir() if made.is_dir() else [made]:
                sync(file)
            os.replace(made, wanted)
        else:
            # Left by an older file of this name, it would be taken for a part of the new one.
            _remove(wanted)


class _Step(Dataset, ABC):
    """Work on one shard per item; an item is (number of images done, error)."""

    def __getitem__(self, number: int) -> tuple[int, UserError | None]:
        # An exception that a worker raises would arrive as the text of its traceback.
        try:
            return self.work(number), None
        except StorageError as error:
            return 0, error
        except (UserError, OSError, ValueError) as error:
            return 0, UserError(str(error))

    @abstractmethod
    def work(self, number: int) -> int:
        """Do the work of a shard and return its number of images."""


class _ShardWriter(_Step):
    def __init__(self, source: ImageDataset, form: Format, shards: list[Path], count: int):
        self.source, self.form, self.shards, self.count = source, form, shards, count

    def work(self, number: int) -> int:
        rows, contents = [], []
        for index in range(number * SHARD, min((number + 1) * SHARD, self.count)):
            try:
                x = self.source.image(index)
            except ValueError as error:
                rows.append({"name": self.source.image_name(index), "error": str(error)})
                continue
            contents.append(self.form.encode(x))
            row = {"bytes": len(contents[-1]), "label": self.source.label(index)}
            rows.append({**row, "sha256": _hash(x)})
        shard = self.shards[number]
        _write(shard.with_suffix(".bin"), b"".join(contents))
        # The shard counts as done when this file is there.
        _write(shard.with_suffix(".json"), json.dumps(rows))
        return len(rows)


class _Verifier(_Step):
    def __init__(self, reader: Dataset, rows: list[dict[str, Any]]):
        self.reader, self.rows = reader, rows

    def work(self, number: int) -> int:
        indices = range(number * SHARD, min((number + 1) * SHARD, len(self.rows)))
        for index in indices:
            item, row = self.reader[index], self.rows[index]
            if _hash(item["x"]) != row["sha256"] or item.get("label") != row["label"]:
                raise UserError(
                    f"image {index} of {self.reader.name} differs from what was decoded; check "
                    "the disk, and run the same command again"
                )
        return len(indices)


def _run(step: _Step, numbers: list[int] | range, workers: int, advance: Callable) -> None:
    workers = min(workers, len(numbers))
    loader = DataLoader(
        step,
        None,
        sampler=numbers,
        num_workers=workers,
        multiprocessing_context=reader_context(workers),
    )
    try:
        for count, error in loader:
            if error is not None:
                raise error
            advance(count)
    except RuntimeError as error:
        raise _WorkerDiedError(
            f"a worker process died ({error}); if memory is short take fewer --workers. The same "
            "command goes on from here"
        ) from error


def _entries(shards: list[Path], good: list[dict[str, Any]], advance: Callable) -> Entries:
    rows = iter(good)
    for shard in shards:
        content, start = shard.with_suffix(".bin").read_bytes(), 0
        while start < len(content):
            row = next(rows)
            yield content[start : start + row["bytes"]], row["label"]
            start += row["bytes"]
            advance(1)


def _made_before(destination: Path, recipe: dict[str, Any]) -> Prepared:
    record = _read_json(_record_path(destination))
    if not isinstance(record, dict) or record.get("recipe") != recipe:
        raise UserError(
            f"{destination} is there already, and was not made from this source with these "
            "options; choose another name, or remove it first"
        )
    skipped = [(name, reason) for name, reason in record["skipped"]]
    shape, count = tuple(record["shape"]), record["count"]
    return Prepared(destination, count, shape, record["sha256"], skipped, resumed=recipe["count"])


def _record_path(destination: Path) -> Path:
    return destination.with_name(f"{destination.name}.json")


def _hash(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().data).hexdigest()


def _write(path: Path, content: bytes | str) -> None:
    with _writing(path):
        write_atomically(path, content)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn write errors into a message with a remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error}); free space there, and start the same command "
            "again: it goes on from here"
        ) from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_json(path: Path) -> Any:
    """What a JSON file holds, None if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None

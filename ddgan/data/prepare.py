"""Bringing images into the form that training reads: parallel, restartable, checked at the end.

The work is divided into shards. A worker process decodes, transforms and encodes the images of a
shard and stores them beside the destination, in a folder ``DST.partial``; a shard is there whole or
not at all. When all are there, the destination is put together from them, read again, compared with
what the workers decoded, and only then gets its name. Killed at any moment and started again, the
work goes on from the shards that are there.
"""

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from ddgan.data.images import ImageDataset
from ddgan.data.prepare_formats import FORMATS, Entries, Format
from ddgan.data.prepare_stage import RECIPE, begin, is_whole, locked, remove, sync, write, written
from ddgan.data.workers import reader_context
from ddgan.errors import UserError
from ddgan.utils.files import sha256

SHARD = 128
_VERSION = 1

# A label and a total, to a context that yields a function that advances the bar.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


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


def prepare(
    source: ImageDataset,
    destination: str | Path,
    form: str,
    progress: Progress,
    workers: int = 0,
    limit: int | None = None,
) -> Prepared:
    """Store the (first ``limit``) images of ``source`` at ``destination``; returns what was made.

    ``form`` is a key of FORMATS; ``workers`` processes work beside this one, or none. Raises
    UserError where the destination is something else already, another process is making it, no
    image is readable, or what was stored does not read back as what was decoded.
    """
    destination = Path(destination)
    count = len(source) if limit is None else min(limit, len(source))
    recipe = {"version": _VERSION, "source": source.digest(), "format": form, "count": count}
    stage = destination.with_name(f"{destination.name}.partial")
    if destination.exists():
        made = _made_before(destination, recipe)
        if (stage / RECIPE).exists():
            # Killed after the last step but this one; or it is being made at this moment.
            with suppress(UserError), locked(stage):
                shutil.rmtree(stage)
        return made
    with locked(stage):
        begin(stage, recipe)
        shards = [stage / f"{k:06d}" for k in range((count + SHARD - 1) // SHARD)]
        missing = [k for k, shard in enumerate(shards) if not is_whole(shard)]
        resumed = sum(min(SHARD, count - k * SHARD) for k in set(range(len(shards))) - {*missing})
        with progress("preparing", count) as advance:
            advance(resumed)
            _run(_ShardWriter(source, FORMATS[form], shards, count), missing, workers, advance)
        rows = [row for s in shards for row in json.loads(s.with_suffix(".json").read_text())]
        made = _finish(source, destination, stage, shards, rows, recipe, progress, workers)
    return made._replace(resumed=resumed)


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
        remove(path)
    with progress("writing", len(good)) as advance, written(final):
        size = sum(row["bytes"] for row in good)
        form.assemble(final, _entries(shards, good, advance), len(good), shape, size)
    try:
        _verify(form, final, shape, good, progress, workers)
    except _WorkerDiedError:
        raise
    except UserError:
        # One of the stored parts is not what it was: none of them is to be used again.
        write(stage / RECIPE, b"null")
        raise
    digest = sha256(*(row["sha256"].encode() for row in good))
    record = {"recipe": recipe, "count": len(good), "shape": shape, "sha256": digest}
    record |= {"source": source.name, "skipped": skipped}
    write(_record_path(destination), (json.dumps(record, indent=1) + "\n").encode())
    _publish(form, final, destination)
    shutil.rmtree(stage)
    return Prepared(destination, len(good), shape, digest, skipped, 0)


def _verify(
    form: Format,
    final: Path,
    shape: tuple[int, ...],
    good: list[dict[str, Any]],
    progress: Progress,
    workers: int,
) -> None:
    reader = form.open(final, shape)
    if len(reader) != len(good):
        raise UserError(f"{final} has {len(reader)} images, expected {len(good)}")
    chunks = range((len(good) + SHARD - 1) // SHARD)
    with progress("verifying", len(good)) as advance:
        _run(_Verifier(reader, good), chunks, workers, advance)
    form.close(final)


def _publish(form: Format, final: Path, destination: Path) -> None:
    """Give the files their names, the main one last."""
    parts = zip(form.companions(final), form.companions(destination), strict=True)
    for made, wanted in (*parts, (final, destination)):
        if made.exists():
            sync(made)
            os.replace(made, wanted)
        else:
            # Left by an older file of this name, it would be taken for a part of the new one.
            remove(wanted)


class _WorkerDiedError(UserError):
    """A worker process has ended before its work was done."""


class _Step(Dataset, ABC):
    """Work on one shard per item; an item is (number of images done, message of an error)."""

    def __getitem__(self, number: int) -> tuple[int, str | None]:
        # An exception that crosses processes would arrive as the text of its traceback.
        try:
            return self.work(number), None
        except (UserError, OSError, ValueError) as error:
            return 0, f"{error}"

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
        write(shard.with_suffix(".bin"), b"".join(contents))
        # The shard counts as done when this file is there.
        write(shard.with_suffix(".json"), json.dumps(rows).encode())
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
                raise UserError(error)
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
    try:
        record = json.loads(_record_path(destination).read_text())
        same = record["recipe"] == recipe
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UserError(
            f"{destination} is there already, and was not made from this source with these "
            "options; choose another name, or remove it first"
        )
    skipped = [(name, reason) for name, reason in record["skipped"]]
    shape, count = tuple(record["shape"]), record["count"]
    return Prepared(destination, count, shape, record["sha256"], skipped, resumed=recipe["count"])


def _record_path(destination: Path) -> Path:
    return destination.with_name(f"{destination.name}.json")


def _hash(x) -> str:
    return hashlib.sha256(x.contiguous().numpy().data).hexdigest()

"""Labels of images in files: ``dataset.json``, ``{"labels": [[name, integer], ...]}``."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from mmengine.logging import print_log

LABELS = "dataset.json"
# Encoded images with their labels, as they are stored together.
Entries = Iterator[tuple[bytes, int | None]]


def choose_labels(found: Sequence[str], where: Path) -> str | None:
    """The ``dataset.json`` that counts of those found: the one nearest to the root.

    If several are equally near none counts, which is logged.
    """
    if not found:
        return None
    depth = min(path.count("/") for path in found)
    nearest = sorted(path for path in found if path.count("/") == depth)
    if len(nearest) > 1:
        _warn(
            f"{where} has {len(nearest)} files {LABELS} side by side ({nearest[0]}, ...): "
            "the images have no labels; keep one"
        )
        return None
    return nearest[0]


def parse_labels(content: bytes, path: str, names: Sequence[str], where: Path) -> list[int] | None:
    """The labels of the images ``names`` in the ``dataset.json`` at ``path`` of ``where``.

    Names in it are relative to its folder. None where it has none, which is logged unless it says
    so itself. Raises ValueError where it has another form or leaves an image out.
    """
    try:
        listed = json.loads(content)
        if isinstance(listed, dict) and "labels" not in listed:
            _warn(f"{path} in {where} has no 'labels': the images have no labels")
            return None
        if (listed := listed["labels"]) is None:
            return None
        by_name = dict(listed)
        folder = PurePosixPath(path).parent.as_posix()
        prefix = "" if folder == "." else f"{folder}/"
        if outside := [name for name in names if not name.startswith(prefix)]:
            raise ValueError(f"{outside[0]} lies outside of {prefix}")
        labels = [by_name[name[len(prefix) :]] for name in names]
        for label in labels:
            if type(label) is not int or abs(label) >= 1 << 63:
                raise TypeError(f"label {str(label)[:40]} is not a 64-bit integer")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} in {where} does not give an integer label for each image, as {{'labels': "
            f"[[name, label], ...]}} ({type(error).__name__}: {error}); correct or remove it, or "
            "set use_labels=False"
        ) from error
    return labels


def labels_json(labels: list[list]) -> str:
    """The ``dataset.json`` of pairs (name, label), whose labels are all integers or all None."""
    return json.dumps({"labels": labels if labels[0][1] is not None else None})


def _warn(text: str) -> None:
    print_log(text, "current", logging.WARNING)

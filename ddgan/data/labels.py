"""Labels of images in files: ``dataset.json``, ``{"labels": [[name, integer], ...]}``."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmengine.logging import print_log

from ddgan.data.storage import StorageError
from ddgan.utils.files import refusal

LABELS = "dataset.json"
# Encoded images with their labels, as they are stored together.
Entries = Iterator[tuple[bytes, int | None]]


def read_labels(
    found: Sequence[str], names: Sequence[str], where: Path, read: Callable[[str], bytes]
) -> list[int] | None:
    """The labels of the images ``names``, of the ``dataset.json`` among ``found`` that counts.

    That is the one nearest to the root; names in it are relative to its folder. None, which is
    logged, if several are equally near or it says nothing of labels; None also if it says that
    there are none. Raises ValueError where it is damaged, has another form or leaves an image out.
    """
    depth = min((path.count("/") for path in found), default=0)
    nearest = sorted(path for path in found if path.count("/") == depth)
    if len(nearest) > 1:
        _warn(
            f"{where} has {len(nearest)} files {LABELS} side by side ({nearest[0]}, ...): "
            "the images have no labels; keep one"
        )
    if len(nearest) != 1:
        return None
    (path,) = nearest
    try:
        listed = json.loads(read(path))
        if isinstance(listed, dict) and "labels" not in listed:
            _warn(f"{path} in {where} has no 'labels': the images have no labels")
            return None
        if (listed := listed["labels"]) is None:
            return None
        return _labels_of(names, dict(listed), path.removesuffix(LABELS))
    except StorageError:
        raise
    # zipfile raises nearly anything for damaged files.
    except Exception as error:
        raise ValueError(
            f"{path} in {where} does not give an integer label for each image, as {{'labels': "
            f"[[name, label], ...]}} ({type(error).__name__}: {refusal(error)}); correct or "
            "remove it, or set use_labels=False"
        ) from error


def _labels_of(names: Sequence[str], by_name: dict, prefix: str) -> list[int]:
    if outside := [name for name in names if not name.startswith(prefix)]:
        raise ValueError(f"{outside[0]} lies outside of {prefix}")
    labels = [by_name[name.removeprefix(prefix)] for name in names]
    for label in labels:
        if type(label) is not int or abs(label) >= 1 << 63:
            raise TypeError(f"label {str(label)[:40]} is not a 64-bit integer")
    return labels


def labels_json(labels: list[list]) -> str:
    """The ``dataset.json`` of pairs (name, label), whose labels are all integers or all None."""
    return json.dumps({"labels": labels if labels[0][1] is not None else None})


def _warn(text: str) -> None:
    print_log(text, "current", logging.WARNING)

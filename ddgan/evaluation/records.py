"""Results as JSON files next to the checkpoint that was measured, with their protocol."""

import json
from pathlib import Path
from typing import Any

import ddgan
from ddgan.utils.files import write_atomically

# A record of one result is a few KiB; anything much larger is something else.
_MOST_BYTES = 2**20
_KEYS = {"metric": str, "version": str, "values": dict, "protocol": dict}


def record_path(checkpoint: str | Path, metric: str) -> Path:
    """The path of the record of a metric of a checkpoint."""
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}_{metric}.json")


def write_record(
    checkpoint: str | Path,
    metric: str,
    values: dict[str, Any],
    protocol: dict[str, Any],
    version: str = "1",
) -> Path:
    """Write ``values`` and how they were measured; returns the path of the record.

    ``version`` is the version of the metric's definition.
    """
    path = record_path(checkpoint, metric)
    record = {
        "metric": metric,
        "version": version,
        "values": values,
        "protocol": {"checkpoint": Path(checkpoint).name, "ddgan": ddgan.__version__, **protocol},
    }
    write_atomically(path, json.dumps(record, indent=2) + "\n")
    return path


def read_record(path: str | Path) -> dict[str, Any] | None:
    """The record in a file, or None if the file holds something else."""
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
    # Nesting beyond Python's limit is a RecursionError.
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    if not all(isinstance(record.get(key), kind) for key, kind in _KEYS.items()):
        return None
    return record


def read_records(folder: str | Path) -> list[dict[str, Any]]:
    """The records in a folder and below it, in the order of their files' names.

    Each has "metric", "version", "values" and "protocol". Files that are not records are skipped.
    Raises FileNotFoundError if the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; name a run's folder, or work_dirs")
    found = [read_record(path) for path in sorted(folder.rglob("*.json"))]
    return [record for record in found if record is not None]


def config_name(config: Any) -> str | None:
    """The name of an experiment in its records: of its config's file, or of its run's folder."""
    if filename := getattr(config, "filename", None):
        return Path(filename).stem
    name = config.get("experiment_name") or config.get("work_dir")
    return Path(name).name if name else None

"""Results as JSON beside the checkpoint that they were measured on, with their protocol."""

import json
import os
from pathlib import Path
from typing import Any

import ddgan

VERSION = 1


def record_path(checkpoint: str | Path, metric: str) -> Path:
    """Return where the record of a metric of a checkpoint is kept."""
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}_{metric}.json")


def write_record(
    checkpoint: str | Path, metric: str, values: dict[str, Any], protocol: dict[str, Any]
) -> Path:
    """Write ``values`` and the protocol that they were measured by, and return the file."""
    path = record_path(checkpoint, metric)
    record = {
        "metric": metric,
        "version": VERSION,
        "values": values,
        "protocol": {"checkpoint": Path(checkpoint).name, "ddgan": ddgan.__version__, **protocol},
    }
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(temporary, path)
    return path

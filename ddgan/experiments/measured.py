"""This project's measurements: the records of runs, brought together by checkpoint."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddgan.errors import UserError
from ddgan.evaluation.records import read_record
from ddgan.experiments.published import COLUMNS, Table

# Extractors by which the papers' numbers were made; a record that names another gets a footnote.
PUBLISHED_EXTRACTOR = "inception"


@dataclass
class Measured:
    """What was measured of one checkpoint: metric → values, and metric → protocol."""

    config: str
    folder: Path
    checkpoint: str
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def iteration(self) -> int:
        """The iteration of the checkpoint, 0 where no record says it."""
        return max((int(p.get("iteration") or 0) for p in self.protocols.values()), default=0)

    @property
    def nfe(self) -> float | None:
        """The number of evaluations of the networks per sample, as counted while measuring."""
        for protocol in self.protocols.values():
            if protocol.get("nfe") is not None:
                return protocol["nfe"]
        return None

    def value(self, column: str) -> float | None:
        """Return the value of a column of the tables, or None where it was not measured."""
        place = COLUMNS[column]
        if place.metric in self.values:
            return self.values[place.metric].get(place.value)
        return self.nfe if column == "nfe" else None

    def footnotes(self, column: str, table: Table) -> list[str]:
        """Return in what the measurement of a column differs from the table's protocol."""
        metric = COLUMNS[column].metric
        protocol = self.protocols.get(metric)
        if protocol is None:
            return []
        notes = []
        if column == "time":
            notes.append(f"measured on {protocol.get('device_name') or protocol.get('device')}")
        elif column != "nfe":
            if (num := protocol.get("num")) is not None and num != table.num:
                notes.append(f"{num:,} samples instead of {table.num:,}")
            extractor = extractor_name(protocol)
            if extractor and PUBLISHED_EXTRACTOR not in extractor.lower() and metric != "modes":
                notes.append(f"features of {extractor} instead of the published Inception's")
        if protocol.get("ema") is False:
            notes.append("the generator as trained, not its average")
        return notes


def extractor_name(protocol: dict[str, Any]) -> str | None:
    """Return the name of the feature extractor in a record's protocol, None without one."""
    extractor = protocol.get("extractor")
    if isinstance(extractor, dict):
        extractor = extractor.get("name") or extractor.get("type")
    return extractor


def read_measured(paths: Iterable[str | Path]) -> list[Measured]:
    """Return the measurements of every checkpoint below the folders ``paths``, by folder.

    Raises UserError for a path that does not exist.
    """
    found: dict[tuple[Path, str], Measured] = {}
    for root in map(Path, paths):
        if not root.is_dir():
            raise UserError(f"{root} is not a folder; name folders of runs, such as work_dirs")
        for path in sorted(root.rglob("*.json")):
            record = read_record(path)
            if record is None:
                continue
            protocol = record["protocol"]
            checkpoint = str(protocol.get("checkpoint", path.stem))
            entry = found.setdefault(
                (path.parent, checkpoint),
                Measured(_config_name(protocol, path.parent), path.parent, checkpoint),
            )
            entry.values[record["metric"]] = record["values"]
            entry.protocols[record["metric"]] = protocol
    return list(found.values())


def newest_of(measured: Iterable[Measured], columns: Iterable[str]) -> list[Measured]:
    """Return, for each folder, the latest checkpoint with a value for any column but NFE."""
    scores = [column for column in columns if column != "nfe"]
    newest: dict[Path, Measured] = {}
    for entry in measured:
        if all(entry.value(column) is None for column in scores):
            continue
        if entry.folder not in newest or entry.iteration > newest[entry.folder].iteration:
            newest[entry.folder] = entry
    return [newest[folder] for folder in sorted(newest)]


def _config_name(protocol: dict[str, Any], folder: Path) -> str:
    """Return the stem of the config, or the folder's name where the record does not say it."""
    name = protocol.get("config")
    return Path(name).stem if name else folder.name

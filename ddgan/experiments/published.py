"""The papers' tables as published, and which config stands for which row: ``papers.yaml``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Column:
    """A column's heading, decimals, the record and value that fill it here, and its protocol.

    ``num`` replaces the table's number of samples.
    """

    label: str
    digits: int
    metric: str
    value: str
    extractor: str = ""
    splits: int | None = None
    num: int | None = None


@dataclass(frozen=True)
class Table:
    """One table of a paper: ``rows`` maps a system to the values of the columns.

    Its protocol: ``num`` samples, compared with a training set of one of the sizes ``real``.
    """

    source: str
    title: str
    num: int
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    ours: Mapping[str, str | None]
    real: Sequence[int] = ()
    note: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    def published(self, system: str) -> dict[str, float | None]:
        """Column → published value of a system; raises KeyError for an unknown one."""
        return dict(zip(self.columns, self.rows[system], strict=True))


def published_values(config: str) -> dict[str, float]:
    """Column → published value of the system that a config stands for, over all tables."""
    found: dict[str, float] = {}
    for table in TABLES.values():
        if (system := table.ours.get(config)) is not None:
            values = table.published(system).items()
            found = {column: value for column, value in values if value is not None} | found
    return found


def _read() -> tuple[dict[str, Column], dict[str, Table]]:
    papers = yaml.safe_load(Path(__file__).with_name("papers.yaml").read_text(encoding="utf-8"))
    columns = {name: Column(**entry) for name, entry in papers["columns"].items()}
    tables: dict[str, Table] = {}
    for name, entry in papers["tables"].items():
        rows = {system: tuple(values) for system, *values in entry.pop("rows")}
        if "also" in entry:
            shared = tables[entry.pop("also")].rows
            own = {system: rows[system] for system in rows if system not in shared}
            rows = {**own, **shared, **rows}
        tables[name] = Table(rows=rows, columns=tuple(entry.pop("columns")), **entry)
    return columns, tables


COLUMNS, TABLES = _read()

"""The papers' tables and experiments, as data.

``papers.yaml`` has the tables as published and says which config stands for which row;
``experiments.yaml`` has every experiment and the trainings that it takes.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ddgan.engine import load_config

ROOT = Path(__file__).resolve().parents[2]


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


@dataclass(frozen=True)
class Setup:
    """A config file, and the settings that are changed in it."""

    config: Path
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """A training by the release's settings, by the paper's and in its small form.

    Where there is one recipe, ``paper`` is ``full``. ``experiments.yaml`` explains the numbers.
    """

    name: str
    full: Setup
    paper: Setup
    small: Setup
    gpus: int
    hours: float
    minutes: float = 1.0
    published: bool = False
    title: str = ""


@dataclass(frozen=True)
class Experiment:
    """What a table or a figure takes; ``figures`` are pairs of a kind and a training or None.

    ``resampled`` maps a name to the weights of the training ``of``, which are sampled with other
    ``options`` of the model.
    """

    name: str
    source: str
    what: str
    figures: Sequence[tuple[str, str | None]]
    trainings: Sequence[str] = ()
    metrics: Sequence[str] = ()
    small_metrics: Sequence[str] = ("modes",)
    expected: str = ""
    settings: str = "release"
    resampled: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def config_path(name: str, settings: str = "release") -> Path:
    """The file of a config by its name, the paper's variant where there is one.

    Raises FileNotFoundError for an unknown name.
    """
    paper = ("configs/paper", "configs/paper/ablations") if settings == "paper" else ()
    for folder in (*paper, "configs", "configs/ablations"):
        if (path := ROOT / folder / f"{name}.py").is_file():
            return path
    raise FileNotFoundError(f"there is no config {name} in {ROOT / 'configs'}")


@functools.cache
def global_batch_size(training: str) -> int | None:
    """The global batch of a training's config, "-paper" after its name for the paper's.

    None for an unknown training.
    """
    name = training.removesuffix("-paper")
    if name not in TRAININGS:
        return None
    entry = TRAININGS[name]
    setup = entry.full if name == training else entry.paper
    return load_config(setup.config).train_dataloader.batch_size * max(entry.gpus, 1)


def _training(name: str, small: dict, **entry) -> Training:
    reduced = Setup(config_path(small.get("config", name)), small["options"])
    full, paper = (Setup(config_path(name, settings)) for settings in ("release", "paper"))
    return Training(name, full, paper, reduced, **entry)


def _experiment(name: str, figures: list, **entry) -> Experiment:
    return Experiment(
        name, figures=[pair for figure in figures for pair in figure.items()], **entry
    )


def _content(file: str) -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name(file).read_text(encoding="utf-8"))


def _experiments() -> tuple[dict[str, Training], dict[str, Experiment]]:
    catalogue = _content("experiments.yaml")
    trainings = {name: _training(name, **e) for name, e in catalogue["trainings"].items()}
    experiments = {name: _experiment(name, **e) for name, e in catalogue["experiments"].items()}
    return trainings, experiments


def _published() -> tuple[dict[str, Column], dict[str, Table]]:
    papers = _content("papers.yaml")
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


COLUMNS, TABLES = _published()
TRAININGS, EXPERIMENTS = _experiments()

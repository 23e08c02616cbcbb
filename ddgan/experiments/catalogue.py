"""Every experiment of both papers and the trainings they take: ``experiments.yaml``."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ddgan.engine import load_config

ROOT = Path(__file__).resolve().parents[2]


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
class Resampled:
    """The weights of the training ``of``, sampled with other settings of the model."""

    of: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """What a table or a figure takes; ``figures`` are pairs of a kind and a training or None."""

    name: str
    source: str
    what: str
    figures: Sequence[tuple[str, str | None]]
    trainings: Sequence[str] = ()
    metrics: Sequence[str] = ()
    small_metrics: Sequence[str] = ("modes",)
    expected: str = ""
    settings: str = "release"
    resampled: Mapping[str, Resampled] = field(default_factory=dict)


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


def _experiment(name: str, figures: list, resampled: dict | None = None, **entry) -> Experiment:
    return Experiment(
        name,
        figures=[pair for figure in figures for pair in figure.items()],
        resampled={key: Resampled(**value) for key, value in (resampled or {}).items()},
        **entry,
    )


def _read() -> tuple[dict[str, Training], dict[str, Experiment]]:
    text = Path(__file__).with_name("experiments.yaml").read_text(encoding="utf-8")
    catalogue = yaml.safe_load(text)
    trainings = {name: _training(name, **e) for name, e in catalogue["trainings"].items()}
    experiments = {name: _experiment(name, **e) for name, e in catalogue["experiments"].items()}
    return trainings, experiments


TRAININGS, EXPERIMENTS = _read()

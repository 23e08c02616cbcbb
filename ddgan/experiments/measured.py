"""This project's measurements: the records of runs, grouped by checkpoint."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddgan.errors import UserError
from ddgan.evaluation.records import read_record
from ddgan.experiments.catalogue import COLUMNS, TABLES
from ddgan.visualization import QualityTimePoint


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
        """Evaluations of the networks per sample, as counted while measuring."""
        return next((p["nfe"] for p in self.protocols.values() if p.get("nfe") is not None), None)

    def version(self, column: str) -> str | None:
        """The version of the metric that a column's value was measured by."""
        return self.protocols.get(COLUMNS[column].metric, {}).get("version")

    def value(self, column: str) -> float | None:
        """The value of a table's column, or None where it was not measured."""
        place = COLUMNS[column]
        if place.metric in self.values:
            return self.values[place.metric].get(place.value)
        return self.nfe if column == "nfe" else None


def read_measured(paths: Iterable[str | Path]) -> list[Measured]:
    """The measurements of every checkpoint below the folders ``paths``, by folder.

    Raises UserError for a path that is not a folder.
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
            # Records that do not name their config go by the folder.
            config = Path(protocol.get("config") or path.parent.name).stem
            measured = Measured(config, path.parent, checkpoint)
            measured = found.setdefault((path.parent, checkpoint), measured)
            measured.values[record["metric"]] = record["values"]
            version = record["version"]
            measured.protocols[record["metric"]] = {"version": version, **protocol}
    return list(found.values())


def newest_of(measured: Iterable[Measured], columns: Iterable[str]) -> list[Measured]:
    """For each folder, the latest checkpoint with a value for any column but NFE."""
    scores = [column for column in columns if column != "nfe"]
    newest: dict[Path, Measured] = {}
    for one in measured:
        if all(one.value(column) is None for column in scores):
            continue
        if one.folder not in newest or one.iteration > newest[one.folder].iteration:
            newest[one.folder] = one
    return [newest[folder] for folder in sorted(newest)]


def best_of(measured: Iterable[Measured], last: Measured) -> Measured | None:
    """The checkpoint of a run with the lowest FID, if that is not the ``last`` one.

    Values of another version of the metric are not compared.
    """
    scored = [m for m in measured if m.folder == last.folder and m.value("fid") is not None]
    scored = [m for m in scored if m.version("fid") == last.version("fid")]
    best = min(scored, key=lambda one: one.value("fid"), default=None)
    if best is None or last.value("fid") is None or best.value("fid") >= last.value("fid"):
        return None
    return best


def quality_time_points(measured: Iterable[Measured], score: str = "fid") -> list[QualityTimePoint]:
    """The points of DDGAN's Fig. 4: runs with both a score and a time, and published systems.

    The published curves are not in the paper's text: the systems are those of the tables on
    CIFAR-10, at one number of steps each. They have no other ``score`` than FID.
    """
    points = []
    for system in TABLES["spigan-2"].rows if score == "fid" else ():
        values = TABLES["spigan-2"].published(system)
        if values["fid"] is not None and values["time"] is not None:
            label = re.sub(r" \([^()]*\d{4}\w?\)$", "", system)
            points.append(QualityTimePoint(label, values["time"], values["fid"], False))
    for run in newest_of(measured, (score, "time")):
        quality, seconds = run.value(score), run.value("time")
        # FIDs of other data do not belong on the axis of CIFAR-10.
        comparable = score != "fid" or "cifar10" in run.config
        if comparable and quality is not None and seconds is not None and math.isfinite(quality):
            label = run.config + (f", NFE {run.nfe:g}" if run.nfe is not None else "")
            points.append(QualityTimePoint(label, seconds, quality, True))
    return points


def convergence_curves(
    measured: Iterable[Measured], score: str
) -> dict[str, list[tuple[int, float]]]:
    """Run → (iteration, score) of its checkpoints; UserError if none has the score.

    Runs of one config, such as the small forms of two trainings, go by their folders' names.
    """
    measured = [one for one in measured if one.value(score) is not None]
    if not measured:
        raise UserError(f"no record has the score {score!r}; tools/test.py measures it")
    folders = defaultdict(set)
    for one in measured:
        folders[one.config].add(one.folder)
    curves = defaultdict(list)
    for one in measured:
        name = one.config if len(folders[one.config]) == 1 else one.folder.name
        curves[name].append((one.iteration, one.value(score)))
    return dict(curves)

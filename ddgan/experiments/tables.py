"""The papers' tables as Markdown, published rows and this project's together."""

from collections.abc import Iterable, Sequence
from typing import Any

from ddgan.evaluation.metrics import DEFAULT_METRICS
from ddgan.experiments.catalogue import COLUMNS, Table, global_batch_size
from ddgan.experiments.measured import Measured, best_of, newest_of
from ddgan.registry import METRICS

MISSING = "–"
SELECTION = (
    "of the run's measured checkpoints, the one with the lowest FID; DDGAN trains its ablations "
    "until FID stops improving (App. C.4)"
)
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class _Footnotes:
    """The footnotes of one table, numbered as they come, each text once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def marks(self, texts: Iterable[str]) -> str:
        """The superscript numbers of the texts."""
        texts = list(texts)
        self.texts += [text for text in dict.fromkeys(texts) if text not in self.texts]
        return " ".join(_superscript(self.texts.index(text) + 1) for text in texts)


def markdown_table(table: Table, measured: Iterable[Measured]) -> str:
    """A section with one table: each of this project's rows below the published one.

    A config that has not been measured gets a row of dashes; a row whose protocol is not the
    table's gets footnotes that say how it differs.
    """
    footnotes = _Footnotes()
    measured = list(measured)
    lines = [f"## {table.source}: {table.title}", ""]
    lines += header(["Model", *(COLUMNS[column].label for column in table.columns)])
    for system in (*table.rows, None):
        if system is not None:
            name = system + footnotes.marks([table.notes[system]] if system in table.notes else [])
            values = zip(table.columns, table.rows[system], strict=True)
            lines.append(table_row([name, *(format_published(*cell) for cell in values)]))
        for config in (config for config, stands_for in table.ours.items() if stands_for == system):
            lines += _own_rows(config, table, measured, footnotes)
    lines.append("")
    if table.note:
        lines += [table.note, ""]
    lines += [f"{_superscript(number)} {text}  " for number, text in enumerate(footnotes.texts, 1)]
    return "\n".join(lines).rstrip() + "\n"


def other_runs(measured: Iterable[Measured], tables: Iterable[Table]) -> str:
    """A section with the last checkpoint of every run that is in none of the tables, or ""."""
    shown = {config for table in tables for config in table.ours}
    others = [m for m in measured if m.config.removesuffix("-paper") not in shown]
    runs = newest_of(others, COLUMNS)
    columns = [c for c in COLUMNS if any(run.value(c) is not None for run in runs)]
    if not runs:
        return ""
    lines = ["## Other runs", ""]
    lines += header(["Model", *(COLUMNS[column].label for column in columns)])
    for run in runs:
        name = f"{run.config} ({run.folder}), iteration {run.iteration:,}"
        lines.append(table_row([name, *(format_value(c, run.value(c)) for c in columns)]))
    return "\n".join(lines) + "\n"


def differences(one: Measured, column: str, table: Table) -> list[str]:
    """How the measurement of a column, and the training, differ from the published protocol."""
    place = COLUMNS[column]
    protocol = one.protocols.get(place.metric)
    if protocol is None or column == "nfe":
        return []
    if column == "time":
        device = str(protocol.get("device_name") or protocol.get("device"))
        return [] if "V100" in device else [f"measured on {device}"]
    notes = []
    num, expected = protocol.get("num"), place.num or table.num
    if num is not None and num != expected:
        notes.append(f"{num:,} samples instead of {expected:,}")
    extractor = extractor_name(protocol)
    if extractor and place.extractor and place.extractor not in extractor.lower():
        notes.append(f"features of {extractor} instead of {place.extractor}'s")
    splits = protocol.get("settings", {}).get("splits")
    if place.splits and splits and splits != place.splits:
        notes.append(f"{splits} splits instead of {place.splits}")
    real = protocol.get("real", {}).get("num")
    if real is not None and table.real and real not in table.real:
        sizes = " or ".join(f"{size:,}" for size in table.real)
        notes.append(f"compared with {real:,} images instead of {sizes}")
    current = current_version(place.metric)
    if current is not None and protocol.get("version", current) != current:
        notes.append(f"version {protocol['version']} of the metric instead of {current}")
    if protocol.get("ema") is False:
        notes.append("the generator as trained, not its average")
    batch, intended = protocol.get("global_batch_size"), global_batch_size(one.config)
    if batch is not None and intended is not None and batch != intended:
        notes.append(f"trained with a global batch of {batch:,} instead of {intended:,}")
    return notes


def current_version(metric: str) -> str | None:
    """The version of a metric of the package, None where it depends on other packages."""
    config = DEFAULT_METRICS.get(metric)
    return getattr(METRICS.get(config["type"]), "version", None) if config else None


def extractor_name(protocol: dict[str, Any]) -> str | None:
    """The name of the feature extractor in a record's protocol, None without one."""
    extractor = protocol.get("extractor")
    if isinstance(extractor, dict):
        extractor = extractor.get("name") or extractor.get("type")
    return extractor


def format_value(column: str, value: float | None) -> str:
    """A value with the decimals that the papers print, or a dash."""
    return MISSING if value is None else f"{value:.{COLUMNS[column].digits}f}"


def format_published(column: str, value: float | None) -> str:
    """A published value with as many decimals as the papers print it with, or a dash."""
    if value is None:
        return MISSING
    large = abs(value) >= (1 if column == "kl" else 10)
    least = max(COLUMNS[column].digits - large, 0)
    printed = repr(value).partition(".")[2] if isinstance(value, float) else ""
    return f"{value:.{max(least, len(printed))}f}"


def header(cells: Sequence[str]) -> list[str]:
    """The first two lines of a table, numbers aligned to the right."""
    return [table_row(cells), "|---" + "|---:" * (len(cells) - 1) + "|"]


def table_row(cells: Sequence[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def _own_rows(
    config: str, table: Table, measured: Sequence[Measured], footnotes: _Footnotes
) -> list[str]:
    """The last checkpoint of each run of a config, and its best one by FID."""
    runs = [m for m in measured if m.config.removesuffix("-paper") == config]
    lines = []
    for last in newest_of(runs, table.columns):
        lines.append(_own_row(last, last.config, table, footnotes))
        if (best := best_of(runs, last)) is not None:
            name = f"{last.config}, best FID" + footnotes.marks([SELECTION])
            lines.append(_own_row(best, name, table, footnotes))
    return lines or [table_row([f"*{config}, not measured*", *[MISSING] * len(table.columns)])]


def _own_row(one: Measured, name: str, table: Table, footnotes: _Footnotes) -> str:
    where = f" ({one.folder.name})" if one.folder.name != one.config else ""
    cells = [f"**{name}**{where}, iteration {one.iteration:,}"]
    for column in table.columns:
        value = one.value(column)
        marks = footnotes.marks(differences(one, column, table)) if value is not None else ""
        text = format_value(column, value)
        cells.append(text if value is None else f"**{text}**{marks}")
    return table_row(cells)


def _superscript(number: int) -> str:
    return str(number).translate(_SUPERSCRIPT)

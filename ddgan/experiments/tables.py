"""The papers' tables as Markdown, published rows and this project's together."""

from collections.abc import Iterable, Sequence

from ddgan.experiments.measured import Measured, newest_of
from ddgan.experiments.published import COLUMNS, Ours, Row, Table

MISSING = "–"
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class _Notes:
    """Footnotes of one table, numbered as they come, each text once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def marks(self, texts: Iterable[str]) -> str:
        """Return the superscript numbers of the texts."""
        numbers = []
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
            numbers.append(str(self.texts.index(text) + 1).translate(_SUPERSCRIPT))
        return " ".join(numbers)


def markdown_table(table: Table, measured: Iterable[Measured]) -> str:
    """Return a section with one table: each of this project's rows below the published one.

    A config that has not been measured gets a row of dashes; a row whose protocol is not the
    table's gets footnotes that say in what.
    """
    notes = _Notes()
    runs = newest_of(measured, table.columns)
    labels = [COLUMNS[column].label for column in table.columns]
    lines = [
        f"## {table.source}: {table.title}",
        "",
        "| Model | " + " | ".join(labels) + " |",
        "|---" + "|---:" * len(labels) + "|",
    ]
    followers = {
        row.system: [o for o in table.ours if o.system == row.system] for row in table.rows
    }
    for row in table.rows:
        lines.append(_published_row(row, table, notes))
        for ours in followers[row.system]:
            lines += _our_rows(ours, table, runs, notes)
    for ours in (o for o in table.ours if o.system is None):
        lines += _our_rows(ours, table, runs, notes)
    lines.append("")
    if table.note:
        lines += [table.note, ""]
    lines += [
        f"{str(number).translate(_SUPERSCRIPT)} {text}  "
        for number, text in enumerate(notes.texts, 1)
    ]
    return "\n".join(lines).rstrip() + "\n"


def format_value(column: str, value: float | None) -> str:
    """Return a value with the digits that the papers print, or a dash."""
    if value is None:
        return MISSING
    return f"{value:.{COLUMNS[column].digits}f}"


def format_published(column: str, value: float | None) -> str:
    """Return a published value with as many digits as the papers print it with, or a dash."""
    if value is None:
        return MISSING
    large = abs(value) >= (1 if column == "kl" else 10)
    least = max(COLUMNS[column].digits - large, 0)
    printed = repr(value).partition(".")[2] if isinstance(value, float) else ""
    return f"{value:.{max(least, len(printed))}f}"


def _published_row(row: Row, table: Table, notes: _Notes) -> str:
    cells = [format_published(*cell) for cell in zip(table.columns, row.values, strict=True)]
    return _line(row.system + notes.marks([row.note] if row.note else []), cells)


def _our_rows(ours: Ours, table: Table, runs: Sequence[Measured], notes: _Notes) -> list[str]:
    name = ours.config
    fitting = [run for run in runs if run.config == name]
    if not fitting:
        return [_line(f"*{name}, not measured*", [MISSING] * len(table.columns))]
    lines = []
    for run in fitting:
        where = f" ({run.folder.name})" if run.folder.name != name else ""
        cells = []
        for column in table.columns:
            value = run.value(column)
            marks = notes.marks(run.footnotes(column, table)) if value is not None else ""
            cells.append(
                f"**{format_value(column, value)}**{marks}" if value is not None else MISSING
            )
        lines.append(_line(f"**{name}**{where}, iteration {run.iteration:,}", cells))
    return lines


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"

"""The papers' tables with this project's rows: ``python tools/report.py work_dirs --out R.md``."""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
from collections.abc import Sequence
from pathlib import Path

from ddgan.errors import UserError
from ddgan.experiments import (
    COLUMNS,
    TABLES,
    Measured,
    convergence_curves,
    markdown_table,
    other_runs,
    quality_time_points,
    read_measured,
)
from ddgan.utils.cli import user_errors
from ddgan.visualization import plot_convergence, plot_quality_time

FIGURES = ("quality-time", "convergence")


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Turn the records of tools/test.py into the tables of both papers, published "
        "rows next to measured ones, and the plot of quality against time (DDGAN, Fig. 4)."
    )
    parser.add_argument("folders", nargs="+", help="runs, or folders of runs, such as work_dirs")
    parser.add_argument(
        "--tables", nargs="+", choices=list(TABLES), default=list(TABLES), metavar="TABLE",
        help=f"default all: {', '.join(TABLES)}",
    )  # fmt: skip
    parser.add_argument(
        "--figure",
        choices=FIGURES,
        help="only a figure: quality against time, or a score along the training (SPI-GAN, Fig. 8)",
    )
    parser.add_argument(
        "--score", choices=list(COLUMNS), default="fid", help="the figure's (default fid)"
    )
    parser.add_argument(
        "--out", metavar="FILE",
        help="the Markdown to write, with quality_time.png next to it, or the figure's PNG; "
        "default: print the tables",
    )  # fmt: skip
    args = parser.parse_args()
    if args.figure and not args.out:
        parser.error("--figure needs --out FILE.png")
    return args


def draw(figure: str, measured: Sequence[Measured], score: str, out: Path) -> None:
    """Write one of the figures."""
    label = COLUMNS[score].label
    if figure == "quality-time":
        plot_quality_time(quality_time_points(measured, score), out, label)
    else:
        plot_convergence(convergence_curves(measured, score), out, label)


def main() -> None:
    """Read the records and write the report."""
    args = parse_args()
    with user_errors():
        measured = read_measured(args.folders)
        if not measured:
            raise UserError(
                f"there are no records in {', '.join(args.folders)}; tools/test.py writes them"
            )
        if args.figure:
            draw(args.figure, measured, args.score, Path(args.out))
            print(f"wrote {args.out}")
            return
        sections = [markdown_table(TABLES[name], measured) for name in args.tables]
        if others := other_runs(measured, TABLES.values()):
            sections.append(others)
        if args.out is None:
            print("\n".join(sections))
            return
        out = Path(args.out)
        image = out.with_name("quality_time.png")
        draw("quality-time", measured, "fid", image)
        sections.insert(0, f"# Results\n\n![Quality against time]({image.name})\n")
        out.write_text("\n".join(sections), encoding="utf-8")
        print(f"wrote {out} and {image}, from {len(measured)} checkpoints")


if __name__ == "__main__":
    main()

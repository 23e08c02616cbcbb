"""Run an experiment of the papers: ``python tools/reproduce.py gaussians25 --small``.

What is done is skipped and what was interrupted continues. ``--list`` shows all experiments.
"""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
import shlex
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ddgan.errors import UserError
from ddgan.experiments import (
    EXPERIMENTS,
    TRAININGS,
    Experiment,
    Options,
    Plan,
    find_problems,
    interrupted_by_signals,
    make_plan,
    report_of,
    run_step,
    write_readme,
)
from ddgan.utils.cli import OptionsAction, add_options, progress_bar, user_errors
from ddgan.utils.files import lock


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Reproduce an experiment of the papers.")
    parser.add_argument("name", nargs="?", help="an experiment, see --list")
    parser.add_argument("--list", action="store_true", help="show all experiments and their cost")
    parser.add_argument(
        "--small", action="store_true", help="minutes on two CPU cores: less data, small networks"
    )
    parser.add_argument(
        "--gpus",
        type=int,
        help="processes per training instead of the config's number; the global batch stays",
    )
    add_options(
        parser,
        "--launcher",
        choices=("pytorch", "slurm"),
        default="pytorch",
        help="how several processes are started; slurm: by srun, on any number of machines",
    )
    parser.add_argument(
        "--settings",
        choices=("paper", "release"),
        help="the paper's settings or the release's (default), where DDGAN's differ",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="some of the experiment's trainings"
    )
    parser.add_argument(
        "--out", default="work_dirs/reproduce", metavar="DIR",
        help="folder of all experiments (default work_dirs/reproduce); this one gets one below",
    )  # fmt: skip
    parser.add_argument(
        "--num", type=int, help="samples for each metric, instead of its own number"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=OptionsAction, default={}, metavar="KEY=VALUE",
        help="settings to change in every config, such as train_cfg.max_iters=1000",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands and what is missing; run nothing"
    )
    args = parser.parse_args()
    if not args.list and args.name is None:
        parser.error("name an experiment, or ask for --list")
    return args


def list_experiments() -> None:
    """Print a table of all experiments."""
    table = Table(box=None, pad_edge=False)
    for heading in ("experiment", "paper", "what"):
        table.add_column(heading, overflow="fold")
    for heading in ("GPU hours", "small, min"):
        table.add_column(heading, justify="right", no_wrap=True)
    for experiment in EXPERIMENTS.values():
        table.add_row(experiment.name, experiment.source, experiment.what, *costs(experiment))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table, highlight=False)
    console.print(
        "\nGPU hours: on V100 (SPI-GAN on CelebA-HQ: A6000) as the papers say; ~ is a rough "
        "estimate.\nSmall forms: minutes of one CPU core. Experiments share trainings with the "
        "same settings.",
        highlight=False,
    )


def costs(experiment: Experiment) -> tuple[str, str]:
    """Return GPU hours of the full form and minutes of the small one."""
    trainings = [TRAININGS[name] for name in experiment.trainings]
    if not trainings:
        return "0", "< 1"
    sign = "" if all(training.published for training in trainings) else "~"
    # Trainings of other data often have the same small form, which is run once.
    minutes = sum({f"{t.small}": t.minutes for t in trainings}.values())
    hours = sum(training.hours for training in trainings)
    shown = f"{hours:,.0f}" if hours >= 1 else f"{hours:.1g}"
    return sign + shown, f"{max(minutes, 1):.0f}"


def run(plan: Plan, command: str) -> None:
    """Run the steps that are not done, and write the README after each."""
    for index, step in enumerate(plan.steps, 1):
        label = f"[{index}/{len(plan.steps)}] {step.name}"
        if step.is_done():
            print(f"{label}: done before", flush=True)
            continue
        print(label, flush=True)
        start = time.monotonic()
        try:
            with progress_bar(step.name, max(step.iterations, 1)) as advance:
                run_step(step, advance)
                advance(0 if step.iterations else 1)
        finally:
            write_readme(plan, command)
        print(f"{label}: done in {(time.monotonic() - start) / 60:.1f} min", flush=True)
    print(f"\nwrote {write_readme(plan, command)}")


def main() -> None:
    """List the experiments, or run one."""
    args = parse_args()
    with user_errors():
        if args.list:
            list_experiments()
            return
        if args.name not in EXPERIMENTS:
            known = ", ".join(EXPERIMENTS)
            raise UserError(f"there is no experiment {args.name!r}; known are {known}")
        options = Options(
            Path(args.out), args.small, args.gpus, args.num, args.cfg_options, tuple(args.only),
            args.settings, args.launcher,
        )  # fmt: skip
        plan = make_plan(EXPERIMENTS[args.name], options)
        problems = find_problems(plan)
        if args.dry_run:
            for step in plan.steps:
                print(("# done\n" if step.is_done() else "") + shlex.join(step.command))
            print("\n" + report_of(problems) if problems else "\nnothing is missing")
            return
        if problems:
            raise UserError(report_of(problems))
        plan.folder.mkdir(parents=True, exist_ok=True)
        with lock(plan.folder / "run.lock", str(plan.folder)), interrupted_by_signals():
            run(plan, shlex.join(["python", "tools/reproduce.py", *sys.argv[1:]]))


if __name__ == "__main__":
    main()

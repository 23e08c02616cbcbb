"""Run an experiment of the papers: ``python tools/reproduce.py gaussians25 --small``.

What is done is skipped, what was interrupted goes on. ``--list`` shows all experiments.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from ddgan.errors import UserError
from ddgan.experiments import EXPERIMENTS, RUNS, Experiment, Form, Plan, Stage, make_plan
from ddgan.experiments.readme import write_readme
from ddgan.experiments.stages import check_unmixed, interrupted_by_signals, run_stage
from ddgan.utils.cli import OptionsAction, progress_bar, user_errors
from ddgan.utils.files import lock

ROOT = Path(__file__).resolve().parents[1]


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
        help="processes per training, instead of the number that its batch is made for",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="RUN", help="some of the experiment's trainings"
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
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    args = parser.parse_args()
    if not args.list and args.name is None:
        parser.error("name an experiment, or ask for --list")
    return args


def list_experiments() -> None:
    """Print a table of all experiments."""
    table = Table(box=None, pad_edge=False)
    for heading in ("experiment", "paper", "what"):
        table.add_column(heading, overflow="fold")
    table.add_column("GPU hours", justify="right", no_wrap=True)
    table.add_column("small, min", justify="right", no_wrap=True)
    for experiment in EXPERIMENTS.values():
        table.add_row(
            experiment.name,
            experiment.source,
            experiment.what,
            *costs(experiment),
        )
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table, highlight=False)
    console.print(
        "\nGPU hours: on V100 (SPI-GAN on CelebA-HQ: A6000) as the papers say; ~ is a rough "
        "estimate.\nSmall forms: minutes of one CPU core. Experiments share trainings: one that "
        "another experiment has made is used.",
        highlight=False,
    )


def costs(experiment: Experiment) -> tuple[str, str]:
    """Return GPU hours of the full form and minutes of the small one."""
    runs = [RUNS[name] for name in experiment.runs]
    if not runs:
        return "0", "< 1"
    sign = "" if all(run.is_published for run in runs) else "~"
    # Runs of other data often have the same small form, which is trained once.
    small = {f"{run.small}": run.small_minutes for run in runs}
    minutes = sum(small.values())
    hours = sum(run.gpu_hours for run in runs)
    shown = f"{hours:,.0f}" if hours >= 1 else f"{hours:.1g}"
    return sign + shown, f"{max(minutes, 1):.0f}"


def check_devices(experiment: Experiment, args: argparse.Namespace) -> None:
    """Raise UserError if a training at full size is made for more GPUs than there are."""
    if args.small or args.gpus is not None:
        return
    names = args.only or experiment.runs
    needed = max((RUNS[name].gpus for name in names), default=0)
    if needed > torch.cuda.device_count():
        raise UserError(
            f"{experiment.name} is made for {needed} GPUs and this machine has "
            f"{torch.cuda.device_count()}: use --small, or --gpus N for another number (a batch is "
            "that of one process, so the global batch changes with it)"
        )


def run_plan(plan: Plan, report: Callable[[], None]) -> None:
    """Run the stages that are not done, and call ``report`` after each."""
    total = len(plan.stages)
    for index, stage in enumerate(plan.stages, 1):
        label = f"[{index}/{total}] {describe(stage, plan)}"
        if stage.is_done():
            print(f"{label}: done before", flush=True)
            continue
        check_unmixed(stage)
        print(label, flush=True)
        start = time.monotonic()
        try:
            with progress_bar(stage.name, max(stage.iterations, 1)) as advance:
                run_stage(stage, advance)
                if not stage.iterations:
                    advance(1)
        finally:
            report()
        print(f"{label}: done in {(time.monotonic() - start) / 60:.1f} min", flush=True)


def describe(stage: Stage, plan: Plan) -> str:
    """Return the stage with its run."""
    return stage.name if stage.folder == plan.folder else f"{stage.name} {stage.folder.name}"


def run(args: argparse.Namespace) -> None:
    """Make the plan and carry it out."""
    if args.name not in EXPERIMENTS:
        raise UserError(f"there is no experiment {args.name!r}; known are {', '.join(EXPERIMENTS)}")
    experiment = EXPERIMENTS[args.name]
    form = Form(
        Path(args.out), ROOT, args.small, args.gpus, args.num, args.cfg_options, tuple(args.only)
    )
    plan = make_plan(experiment, form)
    if args.dry_run:
        for stage in plan.stages:
            print(("# done\n" if stage.is_done() else "") + shlex.join(stage.command))
        return
    check_devices(experiment, args)
    command = shlex.join(["python", "tools/reproduce.py", *sys.argv[1:]])
    plan.folder.mkdir(parents=True, exist_ok=True)
    with lock(plan.folder / "run.lock", str(plan.folder)), interrupted_by_signals():
        run_plan(plan, lambda: write_readme(plan, command))
        print(f"\nwrote {write_readme(plan, command)}")


def main() -> None:
    """List the experiments, or run one."""
    args = parse_args()
    with user_errors():
        if args.list:
            list_experiments()
        else:
            run(args)


if __name__ == "__main__":
    main()

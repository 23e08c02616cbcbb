"""The papers' experiments: published numbers, how each is run here, and reports."""

from ddgan.experiments.catalogue import (
    COLUMNS,
    EXPERIMENTS,
    TABLES,
    TRAININGS,
    Experiment,
    Table,
    Training,
)
from ddgan.experiments.measured import (
    Measured,
    convergence_curves,
    quality_time_points,
    read_measured,
)
from ddgan.experiments.plan import Options, Plan, make_plan
from ddgan.experiments.preflight import find_problems, report_of
from ddgan.experiments.readme import write_readme
from ddgan.experiments.steps import Step, interrupted_by_signals, run_step
from ddgan.experiments.tables import markdown_table, other_runs

__all__ = [
    "COLUMNS",
    "EXPERIMENTS",
    "TABLES",
    "TRAININGS",
    "Experiment",
    "Measured",
    "Options",
    "Plan",
    "Step",
    "Table",
    "Training",
    "convergence_curves",
    "find_problems",
    "interrupted_by_signals",
    "make_plan",
    "markdown_table",
    "other_runs",
    "quality_time_points",
    "read_measured",
    "report_of",
    "run_step",
    "write_readme",
]

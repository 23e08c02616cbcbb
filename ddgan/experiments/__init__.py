"""The papers' experiments: published numbers, how each is run here, and reports."""

from ddgan.experiments.catalogue import EXPERIMENTS, Experiment
from ddgan.experiments.measured import Measured, newest_of, read_measured
from ddgan.experiments.plan import Form, Plan, make_plan
from ddgan.experiments.published import TABLES, Table
from ddgan.experiments.quality_time import quality_time_points
from ddgan.experiments.runs import RUNS, Run
from ddgan.experiments.stages import Stage
from ddgan.experiments.tables import markdown_table

__all__ = [
    "EXPERIMENTS",
    "RUNS",
    "TABLES",
    "Experiment",
    "Form",
    "Measured",
    "Plan",
    "Run",
    "Stage",
    "Table",
    "make_plan",
    "markdown_table",
    "newest_of",
    "quality_time_points",
    "read_measured",
]

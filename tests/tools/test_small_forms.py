"""Every experiment's small form from its command to its README, with trainings of four iterations.

The commands are called in this process: starting Python takes longer than they do. That they run as
processes, are interrupted and continue is tested in test_reproduce.py.
"""

import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from types import SimpleNamespace

import mmengine
import numpy as np
import pytest
from PIL import Image

from ddgan.evaluation import record_path
from ddgan.experiments import EXPERIMENTS, TRAININGS, Options, make_plan, steps
from ddgan.experiments.plan import figure_file

TINY = {
    "train_cfg.max_iters": 4,
    "train_dataloader.batch_size": 8,
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint.interval": 2,
    "custom_hooks.0.num": 4,
    "evaluation.time.warmup": 0,
    "evaluation.time.repeats": 1,
}
# Where the figure draws thousands of samples in hundreds of steps, the networks are small.
SMALLER = {"gaussians25": {"model.generator.hidden_dim": 8}}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One folder for all experiments, which share trainings in it."""
    return tmp_path_factory.mktemp("reproduce")


@pytest.fixture
def calls(monkeypatch, load_tool):
    """Call the tools instead of starting them; returns the calls so far."""
    made = []

    def start(step, log):
        tool = load_tool(Path(step.command[1]).stem)
        made.append(step.command)
        status, text = 0, TextIOWrapper(log, write_through=True)
        with monkeypatch.context() as patch, redirect_stdout(text), redirect_stderr(text):
            patch.setattr(sys, "argv", list(step.command[1:]))
            try:
                tool.main()
            except SystemExit as error:
                status = error.code
        text.detach()
        return SimpleNamespace(poll=lambda: status, returncode=status)

    monkeypatch.setattr(steps, "start", start)
    # mmengine formats the config of each run several times, half a second each.
    content = property(
        lambda config: "".join(f"{key} = {value!r}\n" for key, value in config.to_dict().items())
    )
    monkeypatch.setattr(mmengine.Config, "pretty_text", content)
    return made


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_small_form_leaves_what_it_promises(name, out, calls, call_tool):
    options = TINY | SMALLER.get(name, {})
    settings = ("--cfg-options", *(f"{key}={value}" for key, value in options.items()))
    command = ("reproduce", name, "--small", "--out", out, "--num", 40, *settings)
    status, output = call_tool(*command)
    assert status == 0, output
    experiment = EXPERIMENTS[name]
    plan = make_plan(experiment, Options(out, small=True, num=40, overrides=options))
    assert all(step.is_done() for step in plan.steps)
    readme = (plan.folder / "README.md").read_text()
    assert set(re.findall(r"!\[.*\]\((.*)\)", readme)) == {
        figure_file(*f) for f in experiment.figures
    }
    for figure in experiment.figures:
        assert np.asarray(Image.open(plan.folder / figure_file(*figure))).std() > 0, figure
    logs = re.findall(r"\[log\]\((.*?)\)", readme)
    assert len(logs) == len(plan.steps)
    assert all((plan.folder / log).is_file() for log in logs)
    for run, checkpoint in plan.checkpoints.items():
        check_records(checkpoint, experiment.small_metrics)
        if experiment.small_metrics:
            assert measured(run, readme) >= len(experiment.small_metrics)
        else:
            assert "Published and measured" not in readme
    for name in experiment.trainings:
        assert (plan.folders[name] / TRAININGS[name].small.config.name).is_file()
        assert list(plan.folders[name].glob("*/vis_data/scalars.json"))

    made = len(calls)
    status, output = call_tool(*command)
    assert status == 0, output
    assert output.count("done before") == len(plan.steps)
    assert len(calls) == made


def check_records(checkpoint, metrics):
    for metric in metrics:
        record = json.loads(record_path(checkpoint, metric).read_text())
        assert record["metric"] == metric
        assert record["protocol"]["checkpoint"] == checkpoint.name
        assert record["protocol"]["iteration"] == 4


def measured(run, readme):
    """Return how many of a run's columns "…, measured" have a value."""
    lines = readme.splitlines()
    headings = next(line for line in lines if line.startswith("| training |")).split("|")
    cells = next(line for line in lines if line.startswith(f"| {run} |")).split("|")
    pairs = zip(headings, cells, strict=True)
    return sum(heading.endswith(", measured ") and "–" not in cell for heading, cell in pairs)

"""The benchmark of training and sampling runs, and its limit is what was really computed."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ddgan.engine import load_config
from ddgan.errors import UserError
from ddgan.ops import same_conv2d

ROOT = Path(__file__).parents[2]
TINY = ["--width", "16", "--batch-size", "2", "--rounds", "1", "--cfg-options"]
SMALL = [
    "model.generator.image_size=8",
    "model.generator.num_res_blocks=1",
    "model.generator.channel_multipliers=[1,2]",
    "model.discriminator.blocks=[[128,False],[128,True]]",
]


@pytest.fixture
def limit(monkeypatch, load_tool):
    monkeypatch.syspath_prepend(ROOT / "tools")
    return load_tool("benchmark_limit")


def test_limit_has_the_products_that_are_computed_and_no_others(limit):
    stem, layer = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
    x = torch.randn(2, 3, 5, 5)

    def work():
        layer(stem(x).relu().mean(dim=(2, 3))).square().sum().backward()

    run = limit.products_of(work)
    run()
    # Forward of both; backward: the convolution's weight, the layer's weight and its input.
    assert run.count == 5
    with torch.profiler.profile() as profile:
        run()
    names = {event.key for event in profile.key_averages()}
    assert "aten::convolution_backward" in names
    assert not names & {"aten::relu", "aten::mean", "aten::pow"}


def test_limit_has_our_convolutions_as_pytorchs(limit):
    x = torch.randn(2, 16, 16, 16, requires_grad=True)
    weight = torch.randn(24, 16, 3, 3, requires_grad=True)

    def work():
        y = same_conv2d(x, weight)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        g.square().sum().backward()

    run = limit.products_of(work)
    # y, g, and the gradients of both for all that each was made of.
    expected = 2 + 2 + 2
    assert run.count == expected
    with torch.profiler.profile() as profile:
        run()
    names = {event.key for event in profile.key_averages()}
    assert {"aten::convolution", "aten::convolution_backward"} <= names
    assert not {name for name in names if name.startswith("ddgan::")}


def test_limit_repeats_layouts_or_changes_them(limit):
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 5, 5).expand(2, 3, 5, 5)
    with torch.no_grad():
        for layout in (None, torch.contiguous_format, torch.channels_last):
            run = limit.products_of(lambda: conv(x), layout)
            with torch.profiler.profile(record_shapes=True) as profile:
                run()
            assert run.count == 1
            assert any(event.key == "aten::convolution" for event in profile.key_averages())


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["sample", "--against", "plain", "limit"], ["sample"]),
        (
            ["train", "--against", "plain", "limit", "reference"],
            ["train step with R1", "train step without R1", "train step"],
        ),
    ],
)
def test_rows_are_printed_and_recorded(tmp_path, tool_environment, arguments, rows):
    path = tmp_path / "record.json"
    command = [sys.executable, ROOT / "tools" / "benchmark.py", *arguments, "--json", path]
    done = subprocess.run(
        [*command, *TINY, *SMALL], env=tool_environment, capture_output=True, text=True, check=True
    )
    record = json.loads(path.read_text())
    assert list(record["rows"]) == rows
    for times in record["rows"].values():
        assert {"ours", "plain", "limit", "limit, NHWC"} <= set(times)
        assert 0 < times["limit"] < times["plain"]
    assert "batch 2" in done.stdout
    if "sample" in arguments:
        assert record["rms_difference"] < 1e-4


def test_parts_of_an_iteration_add_up(tmp_path, tool_environment):
    path = tmp_path / "record.json"
    command = [sys.executable, ROOT / "tools" / "benchmark.py", "runner", "--json", path]
    options = ["--step-ms", "0", "--iterations", "5"]
    done = subprocess.run(
        [*command, *options], env=tool_environment, capture_output=True, text=True, check=True
    )
    (times,) = json.loads(path.read_text())["runs"]
    mean = {name: part[0] for name, part in times.items()}
    assert mean["data"] + mean["before"] + mean["after"] == pytest.approx(mean["overhead"])
    hooks = [name for name in mean if name.startswith("  ")]
    assert {"  TrainingLog", "  AtomicCheckpoint", "  ParamSchedulerHook"} <= {*hooks}
    assert 0 < sum(mean[name] for name in hooks) < mean["after"]
    assert 0 < mean["checks of updates"] < mean["train step"]
    assert "all but the train step" in done.stdout


def test_the_runner_needs_networks_with_a_width(monkeypatch, load_tool):
    monkeypatch.syspath_prepend(ROOT / "tools")
    cfg = load_config(ROOT / "configs" / "ddgan_cifar10.py")
    with pytest.raises(UserError, match="expected a config of two fully connected networks"):
        load_tool("benchmark_runner").set_width(cfg, 8)


@pytest.fixture
def options_tool(monkeypatch, load_tool):
    monkeypatch.syspath_prepend(ROOT / "tools")
    return load_tool("benchmark_options")


def test_rows_of_options_make_the_same_step(options_tool):
    """What is always on changes the time alone, and the row leaves nothing behind."""
    tool = options_tool
    parser = argparse.ArgumentParser()
    tool.add_arguments(parser)
    options = parser.parse_args([*TINY[:2], "--batch-size", "4", "--r1", TINY[-1], *SMALL])
    options = argparse.Namespace(**vars(options), amp="off", channels_last=False)
    weights = {}
    for name in ("baseline", *tool.WITHOUT, "checkpoint_activations"):
        subject = tool.build_subject(tool.changed(options, name), 4)
        start = torch.cat([p.flatten() for p in subject.model.parameters()])
        torch.manual_seed(0)
        tool.step_of(subject, name)()
        moved = torch.cat([p.detach().flatten() for p in subject.model.parameters()]) - start
        assert all(p.grad is None for p in subject.model.parameters())
        weights[name] = moved
    for moved in weights.values():
        assert (moved - weights["baseline"]).norm() < 0.05 * weights["baseline"].norm()


def test_rows_of_options_are_measured(tmp_path, tool_environment):
    path = tmp_path / "record.json"
    command = [sys.executable, ROOT / "tools" / "benchmark.py", "options", "--json", path]
    arguments = ["--width", "16", "--batch-size", "4", "--rounds", "1", "--only", "accumulated"]
    done = subprocess.run(
        [*command, *arguments, TINY[-1], *SMALL],
        env=tool_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    baseline, accumulated = json.loads(path.read_text())["rows"]
    assert (baseline["name"], accumulated["name"]) == ("baseline", "accumulated")
    assert baseline["milliseconds"] > 0
    assert baseline["peak_bytes"] > 1e6
    assert "| accumulated | 4 batches of a quarter, one update |" in done.stdout


def test_the_peak_of_memory_is_that_of_what_is_kept(options_tool):
    megabytes = 2**20 // 4

    def work():
        kept = torch.ones(3 * megabytes)
        for _ in range(4):
            torch.ones(2 * megabytes)
        del kept

    assert 5 * 2**20 <= options_tool.peak_of(work, "cpu") < 5.5 * 2**20

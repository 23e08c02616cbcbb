"""The benchmark of training and sampling runs, and its limit is what was really computed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

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


def test_limit_repeats_layouts_or_changes_them(limit):
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 5, 5).expand(2, 3, 5, 5)
    with torch.no_grad():
        for channels_last in (False, True):
            run = limit.products_of(lambda: conv(x), channels_last)
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
        assert {"ours", "plain", "limit", "limit, channels_last"} <= set(times)
        assert 0 < times["limit"] < times["plain"]
    assert "batch 2" in done.stdout
    if "sample" in arguments:
        assert record["rms_difference"] < 1e-4

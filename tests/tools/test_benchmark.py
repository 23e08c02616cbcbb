"""The benchmarks run, and what they compare with is what it is said to be."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ddgan.ops import same_conv2d

ROOT = Path(__file__).parents[2]
TINY = [
    "--width=16", "--batch-size=4", "--rounds=1", "--cfg-options",
    "model.generator.image_size=8", "model.generator.num_res_blocks=1",
    "model.generator.channel_multipliers=[1,2]",
    "model.discriminator.blocks=[[128,False],[128,True]]",
]  # fmt: skip


@pytest.fixture
def tool(monkeypatch, load_tool):
    """tools/benchmark.py as a module; the modules of its commands are its attributes."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    return load_tool("benchmark")


@pytest.fixture
def benchmark(tool, call_tool, tmp_path):
    """Run a command; returns its record and its output."""

    def run(*arguments):
        path = tmp_path / "record.json"
        status, output = call_tool("benchmark", *arguments, "--json", path)
        assert status == 0, output
        return json.loads(path.read_text()), output

    return run


def test_limit_has_the_products_that_are_computed_and_no_others(tool):
    products_of = tool.training.limit.products_of
    stem, layer = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
    x = torch.randn(2, 3, 5, 5)

    def work():
        layer(stem(x).relu().mean(dim=(2, 3))).square().sum().backward()

    run = products_of(work)
    run()
    # Forward of both; backward: the convolution's weight, the layer's weight and its input.
    assert run.count == 5
    with torch.profiler.profile() as profile:
        run()
    names = {event.key for event in profile.key_averages()}
    assert "aten::convolution_backward" in names
    assert not names & {"aten::relu", "aten::mean", "aten::pow"}


def test_limit_has_our_convolutions_as_pytorchs(tool):
    products_of = tool.training.limit.products_of
    x = torch.randn(2, 16, 16, 16, requires_grad=True)
    weight = torch.randn(24, 16, 3, 3, requires_grad=True)

    def work():
        y = same_conv2d(x, weight)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        g.square().sum().backward()

    run = products_of(work)
    # y, g, and the gradients of both for all that each was made of.
    expected = 2 + 2 + 2
    assert run.count == expected
    with torch.profiler.profile() as profile:
        run()
    names = {event.key for event in profile.key_averages()}
    assert {"aten::convolution", "aten::convolution_backward"} <= names
    assert not {name for name in names if name.startswith("ddgan::")}


def test_limit_repeats_layouts_or_changes_them(tool):
    products_of = tool.training.limit.products_of
    conv = nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 5, 5).expand(2, 3, 5, 5)
    with torch.no_grad():
        for layout in (None, torch.contiguous_format, torch.channels_last):
            run = products_of(lambda: conv(x), layout)
            with torch.profiler.profile(record_shapes=True) as profile:
                run()
            assert run.count == 1
            assert any(event.key == "aten::convolution" for event in profile.key_averages())


def test_sampling_is_compared(benchmark):
    record, output = benchmark("sample", "--against", "plain", "limit", *TINY)
    times = record["rows"]["sample"]
    assert {*times} == {"ours", "plain", "limit", "limit, NHWC"}
    assert 0 < times["limit"] < times["plain"]
    assert record["rms_difference"] < 1e-4
    assert "batch 4" in output


def test_train_steps_are_compared(benchmark):
    record, _ = benchmark("train", "--against", "plain", "limit", "reference", *TINY)
    rows = record["rows"]
    assert list(rows) == ["train step with R1", "train step without R1", "train step"]
    for times in rows.values():
        assert {*times} == {"ours", "plain", "reference", "limit", "limit, NHWC"}
        assert 0 < times["limit"] < times["plain"]
    peaks = benchmark("train", "--memory", "--against", "plain", *TINY)[0]["peak_bytes"]
    assert 1e6 < peaks["ours"] < peaks["plain"]


def test_operators_are_compared(benchmark):
    options = ("--no-compile", "--rounds", 1, "--size", 1, 8, 8, 8, "--only", "upsample")
    record, output = benchmark("ops", *options)
    assert [row["work"] for row in record["rows"]] == [
        "forward",
        "forward+backward",
        "double backward",
    ]
    assert {*record["rows"][0]["times"]} == {"op", "reference", "single op"}
    assert record["rows"][0]["floor"] > 0
    assert record["rows"][2]["floor"] is None
    assert "upsample2d" in output


def test_parts_of_an_iteration_add_up(benchmark):
    record, output = benchmark("runner", "--iterations", 5)
    times = record["milliseconds"]
    parts = times["data"] + times["hooks before, seed"] + times["hooks after"]
    assert parts == pytest.approx(times["all but the train step"])
    assert min(times.values()) > 0
    assert "all but the train step" in output


def test_waiting_for_data(benchmark):
    sizes = ("--size", 8, "--num", 70, "--workers", 0, "--batch-size", 32, "--seconds", 0.2)
    record, _ = benchmark("data", *sizes, "--step-ms", 300)
    assert [row["form"] for row in record["rows"]] == ["folder", "zip", "lmdb", "memmap"]
    assert all(row["images_per_second"] > 0 for row in record["rows"])
    # A step that takes almost no time waits for most of the time.
    idle, _ = benchmark("data", *sizes, "--step-ms", 0.001, "--formats", "folder")
    assert record["rows"][0]["waiting"] < 0.5 * idle["rows"][0]["waiting"]


def test_options_are_compared(benchmark):
    record, output = benchmark("options", "--only", "accumulated", *TINY)
    baseline, accumulated = record["rows"]
    assert (baseline["name"], accumulated["name"]) == ("baseline", "accumulated")
    assert baseline["milliseconds"] > 0
    assert baseline["peak_bytes"] > 1e6
    assert "| accumulated | " in output


def test_the_peak_of_memory_is_that_of_what_is_kept(tool):
    megabytes = 2**20 // 4

    def work():
        kept = torch.ones(3 * megabytes)
        for _ in range(4):
            torch.ones(2 * megabytes)
        del kept

    assert 5 * 2**20 <= tool.training.peak_of(work, "cpu") < 5.5 * 2**20

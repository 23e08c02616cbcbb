import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddgan.engine import load_config
from ddgan.evaluation.evaluator import build_metrics
from ddgan.experiments import (
    COLUMNS,
    TABLES,
    convergence_curves,
    markdown_table,
    quality_time_points,
    read_measured,
)
from ddgan.experiments.catalogue import config_path
from ddgan.experiments.measured import best_of
from ddgan.experiments.tables import current_version, differences, format_published

ROOT = Path(__file__).parents[2]


def write(folder, iteration, metric, values, version=None, **protocol):
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = f"iter_{iteration}.pth"
    protocol = {
        "checkpoint": checkpoint,
        "iteration": iteration,
        "ema": True,
        "nfe": 4,
        "device": "cuda:0",
        **protocol,
    }
    version = version or (current_version(metric) or "1")
    record = {"metric": metric, "version": version, "values": values, "protocol": protocol}
    (folder / f"iter_{iteration}_{metric}.json").write_text(json.dumps(record))


EXPECTED_STACKED = """\
## DDGAN, Table 3: Mode coverage on StackedMNIST

| Model | Modes ↑ | KL ↓ |
|---|---:|---:|
| VEEGAN (Srivastava et al.) | 762 | 2.173 |
| PacGAN (Lin et al.) | 992 | 0.277 |
| PresGAN (Dieng et al.) | 1000 | 0.115 |
| InclusiveGAN (Yu et al.) | 997 | 0.200 |
| StyleGAN2 (Karras et al.) | 940 | 0.424 |
| Adv. DSM (Jolicoeur-Martineau et al.) | 1000 | 1.49 |
| VAEBM (Xiao et al.) | 1000 | 0.087 |
| Denoising Diffusion GAN | 1000 | 0.071 |
| **ddgan_stackedmnist**, iteration 150,000 | **998** | **0.123** |
| *spigan_stackedmnist, not measured* | – | – |
"""


def test_the_row_of_a_run_stands_below_the_published_one(tmp_path):
    run = tmp_path / "ddgan_stackedmnist"
    write(run, 150_000, "modes", {"modes": 998, "kl": 0.1234}, num=25_600)
    assert markdown_table(TABLES["ddgan-3"], read_measured([tmp_path])) == EXPECTED_STACKED


def test_versions_of_a_metric_are_read_and_not_mixed(tmp_path):
    """Records of version 1 of recall, as written before the balls were closed."""
    run = tmp_path / "ddgan_cifar10"
    for iteration, version in ((100, "1"), (200, "2")):
        write(run, iteration, "recall", {"recall": 0.5}, version, num=50_000)
    old, new = read_measured([tmp_path])
    assert old.value("recall") == new.value("recall") == 0.5
    assert (old.version("recall"), new.version("recall")) == ("1", "2")
    table = TABLES["ddgan-1"]
    assert differences(old, "recall", table) == ["version 1 of the metric instead of 2"]
    assert differences(new, "recall", table) == []
    # A lower value of another version is not a better one.
    for iteration, fid, version in ((100, 2.0, "0"), (150, 3.0, "1"), (200, 4.0, "1")):
        write(run, iteration, "fid", {"fid": fid}, version)
    measured = read_measured([tmp_path])
    last = max(measured, key=lambda one: one.iteration)
    assert best_of(measured, last).value("fid") == 3.0


def test_other_protocols_are_named_in_footnotes(tmp_path):
    run = tmp_path / "second try"
    config = {"config": "configs/spigan_lsunchurch256.py"}
    write(run, 900, "recall", {"recall": 0.5}, num=50_000, **config)
    write(run, 900, "coverage", {"coverage": 0.25}, num=1_000, ema=False,
          extractor={"name": "dinov2"}, real={"num": 5_000}, global_batch_size=32,
          **config)  # fmt: skip
    report = markdown_table(TABLES["spigan-6"], read_measured([tmp_path]))
    row = next(line for line in report.splitlines() if "spigan_lsunchurch256" in line)
    name = "**spigan_lsunchurch256** (second try), iteration 900"
    assert row == f"| {name} | **0.50** | **0.25**² ³ ⁴ ⁵ ⁶ |"
    notes = re.findall(r"^([¹²³⁴⁵⁶]) (.*?) *$", report, re.M)
    assert [number for number, _ in notes] == ["¹", "²", "³", "⁴", "⁵", "⁶"]
    assert notes[0][1].startswith("the text has the values without the systems' names")
    assert [text for _, text in notes[1:]] == [
        "1,000 samples instead of 10,000",
        "features of dinov2 instead of vgg16's",
        "compared with 5,000 images instead of 120,000 or 126,227",
        "the generator as trained, not its average",
        "trained with a global batch of 32 instead of 64",
    ]


# As tools/test.py records them.
INCEPTION, VGG16 = ({"extractor": {"name": name}} for name in ("inception_fid", "vgg16_fc2"))

CELEBA = {"num": 30_000, "real": {"num": 27_000}}


@pytest.mark.parametrize(
    ("table", "config", "metric", "protocol"),
    [
        ("ddgan-2", "ddgan_cifar10", "fid", INCEPTION),
        ("ddgan-2", "ddgan_cifar10", "recall", VGG16),
        ("ddgan-4", "ddgan_celebahq256", "fid", INCEPTION | CELEBA),
        ("spigan-6", "spigan_lsunchurch256", "coverage", VGG16 | {"num": 10_000}),
        ("spigan-2", "ddgan_cifar10", "is", INCEPTION | {"settings": {"splits": 1}}),
        ("ddgan-1", "ddgan_cifar10", "time", {"num": 100, "device_name": "Tesla V100-SXM2-16GB"}),
        ("ddgan-3", "ddgan_stackedmnist", "modes", {"num": 25_600, "global_batch_size": 256}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_the_published_protocol_has_no_footnote(tmp_path, table, config, metric, protocol):
    values = {"seconds": 0.3, "modes": 999, "kl": 0.1, metric: 0.5}
    write(tmp_path / config, 10, metric, values, **{"num": 50_000, **protocol})
    (one,) = read_measured([tmp_path])
    columns = [column for column in TABLES[table].columns if COLUMNS[column].metric == metric]
    assert columns
    assert all(differences(one, column, TABLES[table]) == [] for column in columns)


def test_each_difference_of_a_column_has_a_footnote(tmp_path):
    run = tmp_path / "ddgan_cifar10"
    write(run, 10, "recall", {"recall": 0.5}, num=50_000, **INCEPTION)
    write(run, 10, "is", {"is": 9.5}, num=50_000, settings={"splits": 10}, **INCEPTION)
    write(run, 10, "time", {"seconds": 0.5}, device_name="H100")
    (one,) = read_measured([tmp_path])
    notes = {
        column: differences(one, column, TABLES["ddgan-1"]) for column in ("recall", "is", "time")
    }
    assert notes == {
        "recall": ["features of inception_fid instead of vgg16's"],
        "is": ["10 splits instead of 1"],
        "time": ["measured on H100"],
    }


def test_what_configs_measure_is_what_the_tables_ask_for():
    """The number of samples of each metric that a table of CelebA-HQ or StackedMNIST shows."""
    for table in TABLES.values():
        for config in table.ours:
            path = config_path(config)
            own = load_config(path).get("evaluation", {})
            for column in table.columns:
                place = COLUMNS[column]
                if place.metric in ("time", "nfe"):
                    continue
                if place.metric == "is":  # torch-fidelity may be missing; all ask for its default.
                    continue
                metric = build_metrics([place.metric], own)[place.metric]
                assert metric.num == (place.num or table.num), (config, column)


def test_values_of_different_checkpoints_are_not_mixed(tmp_path):
    run = tmp_path / "ddgan_cifar10"
    write(run, 100, "fid", {"fid": 9.0}, num=50_000)
    write(run, 100, "recall", {"recall": 0.4}, num=50_000)
    write(run, 200, "fid", {"fid": 8.0}, num=50_000)
    write(run, 300, "time", {"seconds": 0.5}, device_name="V100")
    report = markdown_table(TABLES["ddgan-2"], read_measured([tmp_path]))
    assert "| **ddgan_cifar10**, iteration 200 | – | **8.00** | – |" in report


def test_the_best_checkpoint_stands_below_the_last(tmp_path):
    run = tmp_path / "ddgan_cifar10"
    for iteration, fid in ((100, 3.5), (200, 3.9), (300, 4.0)):
        write(run, iteration, "fid", {"fid": fid}, num=50_000)
    write(tmp_path / "ddgan_cifar10-paper", 400, "fid", {"fid": 3.7}, num=50_000,
          global_batch_size=128)  # fmt: skip
    report = markdown_table(TABLES["ddgan-2"], read_measured([tmp_path]))
    rows = re.findall(r"^\| \*\*(ddgan_cifar10.*?) \|.*\*\*(\d\.\d\d)\*\* \|", report, re.M)
    assert rows == [
        ("ddgan_cifar10**, iteration 300", "4.00"),
        ("ddgan_cifar10, best FID¹**, iteration 100", "3.50"),
        ("ddgan_cifar10-paper**, iteration 400", "3.70"),
    ]
    assert re.search("^¹ .*the one with the lowest FID", report, re.M)


def test_runs_outside_the_tables_are_shown(tmp_path, call_tool):
    write(tmp_path / "mine", 10, "fid", {"fid": 2.5}, num=50_000, config="my_package_cifar10")
    write(tmp_path / "ddgan_cifar10", 10, "fid", {"fid": 3.5}, num=50_000)
    status, output = call_tool("report", tmp_path, "--tables", "ddgan-1")
    assert status == 0, output
    section = output[output.index("## Other runs") :]
    assert re.search(r"my_package_cifar10 \(.*/mine\), iteration 10 \| 2.50 ", section)
    assert "| ddgan_cifar10" not in section
    assert "| Model | FID ↓ | NFE ↓ |" in section


def test_two_runs_of_a_config_get_two_rows(tmp_path):
    for name, fid in (("a", 3.0), ("b", 4.0)):
        write(tmp_path / name, 10, "fid", {"fid": fid}, num=30_000, config="ddgan_celebahq256")
    report = markdown_table(TABLES["ddgan-4"], read_measured([tmp_path / "a", tmp_path / "b"]))
    assert re.findall(r"\*\*ddgan_celebahq256\*\* \((\w)\).*\| \*\*(.*)\*\* \|", report) == [
        ("a", "3.00"),
        ("b", "4.00"),
    ]


def test_files_that_are_no_records_are_passed_over(tmp_path):
    (tmp_path / "settings.json").write_text('{"metric": 3}')
    (tmp_path / "broken.json").write_text("{")
    assert read_measured([tmp_path]) == []


def test_the_tool_writes_tables_and_figure(tmp_path, call_tool):
    run = tmp_path / "ddgan_cifar10"
    write(run, 10, "fid", {"fid": 4.5}, num=50_000)
    write(run, 10, "time", {"seconds": 0.3}, device_name="H100")
    out = tmp_path / "REPORT.md"
    status, output = call_tool("report", tmp_path, "--out", out)
    assert status == 0, output
    report = out.read_text()
    assert re.findall("^## (.*?):", report, re.M) == [table.source for table in TABLES.values()]
    assert "| **ddgan_cifar10**, iteration 10 | – | **4.50** | – | **4** | **0.30**" in report
    assert "measured on H100" in report
    image = np.asarray(Image.open(tmp_path / "quality_time.png").convert("RGB")).reshape(-1, 3)
    # The measured point is drawn in its own colour.
    assert (image == (0xD1, 0x49, 0x5B)).all(axis=1).sum() > 50


def test_the_tool_writes_utf8_in_an_ascii_locale(tmp_path, start_tool, load_tool):
    run = tmp_path / "run"
    write(run, 10, "recall", {"recall": 0.5}, num=50_000, config="configs/ddgan_cifar10.py")
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, load_tool("report").__file__, run]
    for options in ([], ["--out", tmp_path / "report.md"]):
        process = start_tool([*command, *options], tmp_path, **ascii_locale)
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
        assert "Traceback" not in output
    assert "¹" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_tool_says_what_is_missing(tmp_path, call_tool):
    status, output = call_tool("report", tmp_path)
    assert status == 1
    assert "there are no records" in output
    assert "tools/test.py writes them" in output
    status, output = call_tool("report", tmp_path / "nowhere")
    assert status == 1
    assert "nowhere is not a folder" in output


def test_a_curve_needs_its_score(tmp_path, call_tool):
    for iteration in (50, 100):
        write(tmp_path / "a", iteration, "modes", {"modes": 3, "kl": 2.0 / iteration})
    out = tmp_path / "curve.png"
    arguments = (tmp_path, "--figure", "convergence", "--out", out)
    status, output = call_tool("report", *arguments)
    assert status == 1
    assert "no record has the score 'fid'" in output
    status, output = call_tool("report", *arguments, "--score", "kl")
    assert status == 0, output
    assert Image.open(out).size[0] > 500


def test_runs_of_one_config_are_curves_of_their_own(tmp_path):
    """The small forms of random and fixed j have the same config."""
    for folder in ("random", "fixed"):
        for iteration in (50, 100):
            protocol = {"config": "spigan_stackeddigits"}
            write(tmp_path / folder, iteration, "modes", {"kl": 2.0 / iteration}, **protocol)
    write(tmp_path / "third", 50, "modes", {"kl": 1.0}, config="ddgan_stackeddigits")
    assert convergence_curves(read_measured([tmp_path]), "kl") == {
        "random": [(100, 0.02), (50, 0.04)],
        "fixed": [(100, 0.02), (50, 0.04)],
        "ddgan_stackeddigits": [(50, 1.0)],
    }


def test_published_points_are_those_with_fid_and_time(tmp_path):
    points = quality_time_points([])
    assert {p.label: (p.seconds, p.quality) for p in points}["DDPM"] == (80.5, 3.21)
    assert len(points) == len({p.label for p in points}) == 16
    write(tmp_path / "x", 1, "fid", {"fid": 2.0}, config="ddgan_celebahq256")
    write(tmp_path / "x", 1, "time", {"seconds": 2.0}, config="ddgan_celebahq256")
    assert len(quality_time_points(read_measured([tmp_path]))) == 16
    assert quality_time_points([], "kl") == []


@pytest.mark.parametrize("name", TABLES)
def test_published_tables_are_well_formed(name):
    table = TABLES[name]
    ranges = {"recall": (0, 1), "coverage": (0, 1), "modes": (0, 1000), "is": (1, 12),
              "fid": (1, 100), "nfe": (0, 4000), "time": (0, 500), "kl": (0, 3)}  # fmt: skip
    for row in table.rows.values():
        for column, value in zip(table.columns, row, strict=True):
            low, high = ranges[column]
            assert value is None or low < value <= high
    assert {*table.ours.values()} - {None} <= set(table.rows)
    assert set(table.notes) <= set(table.rows)
    assert set(table.ours) <= {path.stem for path in (ROOT / "configs").rglob("*.py")}


def test_what_both_papers_print_is_the_same_here():
    """They print the same numbers for other systems, but where a note says otherwise."""
    pairs = {"ddgan-1": "spigan-2", "ddgan-4": "spigan-3", "ddgan-5": "spigan-4"}
    different = []
    for first, second in pairs.items():
        rows, other = TABLES[first].rows, TABLES[second].rows
        different += [system.split(" (")[0] for system in rows if rows[system] != other[system]]
        assert len(other) == len(rows) + 1
    assert different == ["TransGAN", "Gotta Go Fast"]
    one = TABLES["ddgan-2"].published("T = 1")
    assert one == TABLES["spigan-5"].published("K = 1 (DD-GAN)")
    four = TABLES["ddgan-2"].published("T = 4")
    first = TABLES["ddgan-1"].published("Denoising Diffusion GAN, T=4")
    assert four.items() <= first.items()
    two = TABLES["spigan-5"].published("K = 2")
    assert two.items() <= TABLES["spigan-2"].published("SPI-GAN, K=2").items()


def test_the_configs_comments_say_the_same():
    """The configs cite FID and recall of their rows on their own account."""
    checked = 0
    for table in (TABLES["ddgan-2"], TABLES["spigan-5"]):
        for config, system in table.ours.items():
            path = ROOT / "configs" / "ablations" / f"{config}.py"
            if system is None or not path.exists():
                continue
            values = table.published(system)
            for name, text in re.findall(r"(FID|recall) (\d+\.\d+)", path.read_text()):
                assert format_published(name.lower(), values[name.lower()]) == text, config
                checked += 1
    assert checked >= 15

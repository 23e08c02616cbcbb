import io
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "tests" / "configs"
POINTS, IMAGES = CONFIGS / "points.py", CONFIGS / "images.py"


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def assert_one_message(status, output, *parts):
    assert status == 1, output
    assert output.count("error:") == 1, output
    assert "Traceback" not in output
    for part in parts:
        assert part in output


BAD = {
    "misspelt key": (
        IMAGES,
        ["--cfg-options", "train_dataloader.batchsize=3"],
        ["train_dataloader has no key 'batchsize'", "did you mean 'batch_size'"],
    ),
    "image size": (
        IMAGES,
        ["--cfg-options", "model.generator.image_size=16"],
        ["shape (3, 8, 8)", "(3, 16, 16)", "change model.generator or the data set's pipeline"],
    ),
    "kind of data": (
        POINTS,
        ["--cfg-options", "train_dataloader.dataset._delete_=True",
         "train_dataloader.dataset.type=StackedDigits"],
        ["shape (3, 8, 8)", "makes (2,)"],
    ),
    "empty folder": (
        IMAGES,
        ["--cfg-options", "train_dataloader.dataset._delete_=True",
         "train_dataloader.dataset.type=ImageFolder", "train_dataloader.dataset.root=EMPTY"],
        ["there are no images in", "set root to your folder of images"],
    ),
    "missing folder": (
        IMAGES,
        ["--cfg-options", "train_dataloader.dataset._delete_=True",
         "train_dataloader.dataset.type=ImageFolder", "train_dataloader.dataset.root=nowhere"],
        ["nowhere is not a folder", "set root"],
    ),
    "large batch": (
        POINTS,
        ["--cfg-options", "train_dataloader.batch_size=51"],
        ["batch of 51 samples", "'gaussians25' of 50", "lower train_dataloader.batch_size"],
    ),
    "missing checkpoint": (
        POINTS, ["--resume", "nowhere.pth"], ["checkpoint nowhere.pth does not exist"]
    ),
    "truncated checkpoint": (POINTS, ["--resume", "TRUNCATED"], ["truncated", "from another"]),
    "malicious checkpoint": (POINTS, ["--resume", "MALICIOUS"], ["not a training checkpoint"]),
    "missing weights": (POINTS, ["--cfg-options", "load_from=no.pth"], ["no.pth does not exist"]),
    "unknown device": (POINTS, ["--device", "tpu"], ["device is 'tpu'; expected one of"]),
    "half precision": (POINTS, ["--amp", "fp16"], ["needs a CUDA device; use 'bf16' or 'off'"]),
    "no config": (Path("nothing.py"), [], ["'nothing.py' is not a file"]),
    "zero iterations": (POINTS, ["--cfg-options", "train_cfg.max_iters=0"], ["max_iters is 0"]),
}  # fmt: skip
if not torch.cuda.is_available():
    BAD["no GPU"] = (POINTS, ["--device", "cuda"], ["finds no CUDA device", "use device 'cpu'"])


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_message(name, tmp_path, call_tool, trained, monkeypatch):
    config, arguments, parts = BAD[name]
    monkeypatch.chdir(tmp_path)
    marker, work_dir = tmp_path / "ran", tmp_path / "run"
    (tmp_path / "empty").mkdir()
    whole = (trained("points") / "iter_6.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    torch.save({"format": "ddgan-checkpoint-1", "x": Malicious(marker)}, tmp_path / "malicious.pth")
    files = {"EMPTY": "empty", "TRUNCATED": "truncated.pth", "MALICIOUS": "malicious.pth"}
    for word, file in files.items():
        arguments = [argument.replace(word, file) for argument in arguments]
    device = [] if "--device" in arguments else ["--device", "cpu"]
    status, output = call_tool("train", config, "--work-dir", work_dir, *device, *arguments)
    assert_one_message(status, output, *parts)
    assert not list(work_dir.glob("iter_*"))
    assert not marker.exists()


def test_an_option_without_a_value(call_tool):
    status, output = call_tool("train", POINTS, "--cfg-options", "train_cfg.max_iters")
    assert status == 2
    assert "'train_cfg.max_iters' is not of the form KEY=VALUE" in output


def test_a_run_that_diverges_ends_with_one_message(tmp_path, start_tool):
    options = [f"optim_wrapper.{n}.optimizer.lr=1e30" for n in ("generator", "discriminator")]
    options.append("default_hooks.checkpoint.interval=1")
    command = [sys.executable, ROOT / "tools" / "train.py", POINTS, "--work-dir", tmp_path / "run"]
    process = start_tool([*command, "--device", "cpu", "--cfg-options", *options], tmp_path)
    output = process.communicate(timeout=300)[0]
    assert_one_message(process.returncode, output, "gradient that is not finite", "iteration 6;")
    assert "no checkpoint was saved yet. Begin again with a lower learning rate" in output
    assert "Warning" not in output
    assert not list((tmp_path / "run").glob("iter_*"))


def test_dry_run_reports_and_leaves_nothing(tmp_path, call_tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output = call_tool("train", IMAGES, "--dry-run", "--device", "cpu")
    assert status == 0, output
    assert "model DDGAN of samples (3, 8, 8)" in output
    assert "generator_ema:" in output
    assert "memory: about" in output
    assert "data: StackedDigits with 20 samples; the first is (3, 8, 8) uint8" in output
    assert "training: 14 iterations, batch 6 per process" in output
    assert "nothing was trained" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["image size", "empty folder", "large batch", "half precision"])
def test_dry_run_finds_what_training_would_refuse(name, tmp_path, call_tool, monkeypatch):
    config, arguments, parts = BAD[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    arguments = [argument.replace("EMPTY", "empty") for argument in arguments]
    status, output = call_tool("train", config, "--dry-run", "--device", "cpu", *arguments)
    assert_one_message(status, output, *parts)


@pytest.mark.parametrize("bad", [1, 3])
def test_unreadable_images(tmp_path, call_tool, bad):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(20):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (10 * index, 0, 0)).save(buffer, "PNG")
        content = buffer.getvalue()
        (folder / f"{index:02d}.png").write_bytes(content[:40] if 1 <= index <= bad else content)
    status, output = call_tool(
        "train",
        IMAGES,
        "--work-dir",
        tmp_path / "run",
        "--device",
        "cpu",
        "--cfg-options",
        "train_dataloader.dataset._delete_=True",
        "train_dataloader.dataset.type=ImageFolder",
        f"train_dataloader.dataset.root={folder}",
        "train_dataloader.dataset.image_size=8",
        "train_dataloader.dataset.max_unreadable=2",
    )
    if bad == 1:
        assert status == 0, output
        assert output.count("unreadable image") == 1
        assert str(folder / "01.png") in output
        assert (tmp_path / "run" / "iter_14.pth").exists()
    else:
        assert_one_message(status, output, "3 of 20 images are unreadable", "max_unreadable=2")

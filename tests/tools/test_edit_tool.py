"""Strokes and masks in files, and what becomes of them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan.apis import edit, inpaint, load_model
from ddgan.visualization import image_grid


@pytest.fixture(scope="module")
def model(lively):
    return load_model(lively, device="cpu")


@pytest.fixture
def files(tmp_path):
    """A folder with a painting of twice the model's size, a mask of it, and a broken image."""
    painting = np.full((16, 16, 4), (40, 200, 90, 255), np.uint8)
    painting[:8, 8:] = (255, 0, 0, 255)
    painting[8:, :8, 3] = 0
    Image.fromarray(painting).save(tmp_path / "strokes.png")
    mask = np.zeros((16, 16), np.uint8)
    mask[6:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask[:8]).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").touch()
    return tmp_path


@pytest.fixture
def run(call_tool, lively, files, monkeypatch):
    monkeypatch.chdir(files)

    def call(*arguments, path=lively):
        return call_tool("edit", path, *arguments, "--device", "cpu")

    return call


def expected_painting():
    image = torch.tensor([40, 200, 90], dtype=torch.uint8)[:, None, None].repeat(1, 8, 8)
    image[:, :4, 4:] = torch.tensor([255, 0, 0])[:, None, None]
    image[:, 4:, :4] = 255
    return image


def read(path):
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_strokes(run, files, model):
    status, output = run("strokes.png", "--start-step", 1, "--num", 5, "--seed", 3, "--out", "out")
    assert status == 0, output
    assert "strokes.png is 16x16: its centre is scaled to the model's 8x8" in output
    assert "5 images of seed 3 are in out" in output
    image = expected_painting()
    results = edit(model, image, 1, num=5, seed=3)
    pngs = [f"{index:06d}.png" for index in range(5)]
    assert names(files / "out") == [*pngs, "grid.png", "settings.json"]
    for name, result in zip(pngs, results, strict=True):
        assert torch.equal(read(files / "out" / name), result)
    grid = image_grid(torch.cat([image[None], results]))
    np.testing.assert_array_equal(np.array(Image.open(files / "out" / "grid.png")), grid)
    settings = json.loads((files / "out" / "settings.json").read_text())
    assert settings.pop("seconds") > 0
    assert settings.pop("ddgan")
    assert settings == {
        "checkpoint": "iter_14.pth",
        "image": "strokes.png",
        "mask": None,
        "start_step": 1,
        "num": 5,
        "seed": 3,
        "resample": 1,
    }


def test_mask(run, files, model):
    arguments = ("--mask", "mask.png", "--resample", 2, "--num", 3, "--out", "out")
    status, output = run("strokes.png", *arguments)
    assert status == 0, output
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[3:] = True
    image = expected_painting()
    for index, result in enumerate(inpaint(model, image, mask, 3, resample=2)):
        written = read(files / "out" / f"{index:06d}.png")
        assert torch.equal(written, result)
        assert torch.equal(written[:, :3], image[:, :3])
    np.testing.assert_array_equal(np.array(Image.open(files / "out" / "mask.png")), mask.numpy())
    assert json.loads((files / "out" / "settings.json").read_text())["start_step"] is None


def test_half_the_steps_by_default(run, files):
    assert run("strokes.png", "--num", 1, "--out", "out")[0] == 0
    assert json.loads((files / "out" / "settings.json").read_text())["start_step"] == 2


BAD = [
    (["strokes.png", "--start-step", 5], "start_step is 5; this model has the steps 1 to 4"),
    (["strokes.png", "--num", 0], "argument --num: '0' given"),
    (["strokes.png", "--resample", 3], "--resample is 3; it is of use with --mask alone"),
    (["strokes.png", "--mask", "mask.png", "--resample", 0], "resample is 0"),
    (["strokes.png", "--mask", "small.png"], "small.png is 16x8 and strokes.png 16x16"),
    (["strokes.png", "--out", "used"], "used is not a new or empty folder"),
    (["strokes.png", "--out", "mask.png"], "mask.png is not a new or empty folder"),
    (["broken.png"], "broken.png cannot be read"),
    (["missing.png"], "missing.png does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_end_with_one_message(run, files, arguments, message):
    before = names(files)
    out = [] if "--out" in arguments else ["--out", "out"]
    status, output = run(*arguments, *out)
    assert status == (2 if "argument" in message else 1)
    assert output.count("error:") == 1
    assert message in output
    assert names(files) == before


def test_points_are_not_painted(run, trained):
    status, output = run("strokes.png", "--out", "out", path=trained("points") / "iter_6.pth")
    assert status == 1
    assert "the model's samples have shape (2,); only images can be edited" in output

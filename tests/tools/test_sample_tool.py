import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan.apis import load_model
from ddgan.visualization import image_grid


@pytest.fixture(scope="module")
def checkpoint(lively):
    return lively


@pytest.fixture(scope="module")
def expected(checkpoint):
    """Samples 0 to 6 of seed 5 as (N, H, W, C)."""
    return load_model(checkpoint, device="cpu").sample(7, seed=5).permute(0, 2, 3, 1).numpy()


@pytest.fixture
def sample(call_tool, checkpoint):
    def run(*arguments, path=checkpoint):
        return call_tool("sample", path, "--seed", 5, "--device", "cpu", *arguments)

    return run


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def read(source):
    return np.asarray(Image.open(source))


@pytest.mark.parametrize("batch_size", [1, 3, 100, "auto"])
def test_every_form_holds_the_same_samples(tmp_path, sample, expected, batch_size):
    for name in ("a.png", "a.npz", "a.zip", "deep/folder"):
        out = tmp_path / name
        status, output = sample("--num", 7, "--out", out, "--batch-size", batch_size)
        assert status == 0, output
        assert f"7 samples of seed 5 are in {out}" in output
    with np.load(tmp_path / "a.npz") as data:
        assert data["arr_0"].dtype == np.uint8
        written = data["arr_0"]
    # Other sizes of batches round the last bit of a float elsewhere.
    same_batches = batch_size in (100, "auto")
    np.testing.assert_allclose(written.astype(int), expected, rtol=0, atol=1 - same_batches)
    assert written.std() > 20
    grid = image_grid(torch.from_numpy(written).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), grid)
    names = [f"{index:06d}.png" for index in range(7)]
    assert files(tmp_path / "deep" / "folder") == names
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == names
        for index, name in enumerate(names):
            np.testing.assert_array_equal(read(io.BytesIO(archive.read(name))), written[index])
            np.testing.assert_array_equal(read(tmp_path / "deep/folder" / name), written[index])
    assert files(tmp_path) == ["a.npz", "a.png", "a.zip", "deep"]


def test_the_first_index_divides_a_set_among_calls(tmp_path, sample, expected):
    for start, count in ((0, 4), (4, 3)):
        out = tmp_path / f"{start}.npz"
        assert sample("--num", count, "--first-index", start, "--out", out)[0] == 0
    parts = [np.load(tmp_path / f"{start}.npz")["arr_0"] for start in (0, 4)]
    np.testing.assert_allclose(np.concatenate(parts).astype(int), expected, rtol=0, atol=1)
    assert sample("--num", 2, "--first-index", 5, "--out", tmp_path / "folder")[0] == 0
    assert files(tmp_path / "folder") == ["000005.png", "000006.png"]


def test_a_folder_in_use_is_refused(tmp_path, sample):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    status, output = sample("--num", 2, "--out", tmp_path / "mine")
    assert status == 1
    assert "is not empty; choose another" in output
    assert files(tmp_path / "mine") == ["thesis.txt"]


BAD = [
    (["--num", 0], 2, "argument --num: '0' given; expected a whole number of at least 1"),
    (["--num", 2, "--first-index", -1], 2, "argument --first-index: '-1' given"),
    (["--num", 2, "--batch-size", 0], 2, "argument --batch-size: '0' given; expected"),
    (["--num", 2, "--batch-size", "many"], 2, "argument --batch-size: 'many' given; expected"),
    (["--num", 2, "--out", "a.gif"], 1, "expected a .png, .npz or .zip file, or a folder"),
    (["--num", 2, "--out", "text"], 1, "is a file; choose another name"),
]


@pytest.mark.parametrize(("arguments", "expected_status", "message"), BAD)
def test_bad_arguments_end_with_one_message(
    tmp_path, sample, monkeypatch, arguments, expected_status, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").touch()
    out = [] if "--out" in arguments else ["--out", "a.npz"]
    status, output = sample(*arguments, *out)
    assert status == expected_status
    assert output.count("error:") == 1
    assert message in output
    assert files(tmp_path) == ["text"]


def test_points_do_not_fit_into_images(tmp_path, sample, trained):
    points = trained("points") / "iter_6.pth"
    for name in ("a.zip", "folder"):
        status, output = sample("--num", 3, "--out", tmp_path / name, path=points)
        assert status == 1
        assert "samples that are not images go to a .npz or .png file" in output
    assert files(tmp_path) == []
    for name in ("a.npz", "a.png"):
        assert sample("--num", 3, "--out", tmp_path / name, path=points)[0] == 0
    with np.load(tmp_path / "a.npz") as data:
        assert data["arr_0"].shape == (3, 2)
        assert data["arr_0"].dtype == np.float32


def test_an_interrupted_run_leaves_no_half_file(tmp_path, sample, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddgan.models.base.GenerativeModel.sample", interrupt)
    for name in ("a.png", "a.npz", "a.zip", "folder"):
        status, output = sample("--num", 2, "--out", tmp_path / name)
        assert status == 130
        assert "interrupted" in output
    assert files(tmp_path) == []


def test_missing_and_damaged_files_are_named(tmp_path, sample, checkpoint):
    (tmp_path / "half.pth").write_bytes(checkpoint.read_bytes()[:1000])
    for name, message in (("no.pth", "no.pth does not exist"), ("half.pth", "truncated")):
        status, output = sample("--num", 2, "--out", tmp_path / "a.npz", path=tmp_path / name)
        assert status == 1
        assert message in output
        assert not (tmp_path / "a.npz").exists()

"""Pictures are read back and compared with what went in."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan.errors import UserError
from ddgan.visualization import image_grid, plot_curves, plot_digits, read_scalars, save_samples


def test_grid_holds_every_picture_in_order():
    images = torch.arange(5 * 3 * 40 * 33, dtype=torch.int64).remainder(251).to(torch.uint8)
    images = images.reshape(5, 3, 40, 33)
    grid = image_grid(images, columns=2, gap=1)
    assert grid.shape == (3 * 41 - 1, 2 * 34 - 1, 3)
    for index in range(5):
        y, x = index // 2 * 41, index % 2 * 34
        tile = grid[y : y + 40, x : x + 33]
        np.testing.assert_array_equal(tile, images[index].permute(1, 2, 0).numpy())
    assert (grid[82:, 34:] == 255).all()


def test_small_pictures_are_enlarged_pixel_by_pixel():
    images = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8)
    grid = image_grid(images)
    assert grid.shape == (32, 32, 3)
    np.testing.assert_array_equal(grid[::4, ::4, 0], images[0, 0].numpy())
    np.testing.assert_array_equal(grid[3::4, 3::4, 2], images[0, 0].numpy())


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (1, 2, 8, 8)])
def test_grid_refuses_what_it_cannot_show(shape):
    with pytest.raises(ValueError, match="expected"):
        image_grid(torch.zeros(shape, dtype=torch.uint8))


def test_saved_pictures_are_lossless(tmp_path):
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    picture = save_samples(images, tmp_path / "new" / "grid.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "grid.png")), picture)


def test_points_become_a_plot(tmp_path):
    picture = save_samples(torch.randn(50, 2), tmp_path / "points.png")
    assert picture.ndim == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2


def write_log(folder, rows):
    folder.mkdir(parents=True)
    (folder / "scalars.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_curves_of_a_resumed_run_are_joined(tmp_path):
    first = [{"d_loss": 1.0, "d_loss_step_1": 0.5, "step": 1}, {"d_loss": 2.0, "step": 2}]
    write_log(tmp_path / "20260101_000000" / "vis_data", first)
    write_log(tmp_path / "20260102_000000" / "vis_data", [{"d_loss": 3.0, "step": 2}])
    curves = read_scalars(tmp_path)
    assert curves["d_loss"] == {1: 1.0, 2: 3.0}
    plot_curves(tmp_path, tmp_path / "curves.png")
    assert np.asarray(Image.open(tmp_path / "curves.png")).std() > 0


def test_no_log_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no log"):
        read_scalars(tmp_path)


def test_digits_are_drawn(tmp_path):
    samples = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8)
    plot_digits({"one": (samples[:2], [1, 2])}, tmp_path / "few.png", columns=3)
    plot_digits({"one": (samples[:2], [1, 2]), "two": (samples, range(7))}, tmp_path / "all.png")
    few, everything = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("few", "all"))
    assert few.std() > 0
    assert everything.shape[0] > few.shape[0]

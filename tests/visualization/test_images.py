"""Images are read back and compared with what went in."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan.errors import UserError
from ddgan.visualization import image_grid, plot_curves, plot_digits, read_scalars, save_samples
from ddgan.visualization.curves import panels_of


def test_grid_holds_every_image_in_order():
    images = torch.arange(5 * 3 * 40 * 33, dtype=torch.int64).remainder(251).to(torch.uint8)
    images = images.reshape(5, 3, 40, 33)
    grid = image_grid(images, columns=2, gap=1)
    assert grid.shape == (3 * 41 - 1, 2 * 34 - 1, 3)
    for index in range(5):
        y, x = index // 2 * 41, index % 2 * 34
        tile = grid[y : y + 40, x : x + 33]
        np.testing.assert_array_equal(tile, images[index].permute(1, 2, 0).numpy())
    assert (grid[82:, 34:] == 255).all()


def test_small_images_are_enlarged_pixel_by_pixel():
    images = torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8)
    grid = image_grid(images)
    assert grid.shape == (32, 32, 3)
    np.testing.assert_array_equal(grid[::4, ::4, 0], images[0, 0].numpy())
    np.testing.assert_array_equal(grid[3::4, 3::4, 2], images[0, 0].numpy())


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (1, 2, 8, 8)])
def test_grid_refuses_what_it_cannot_show(shape):
    with pytest.raises(ValueError, match="expected"):
        image_grid(torch.zeros(shape, dtype=torch.uint8))


def test_saved_images_are_lossless(tmp_path):
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    image = save_samples(images, tmp_path / "new" / "grid.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "grid.png")), image)


def test_points_become_a_plot(tmp_path):
    image = save_samples(torch.randn(50, 2), tmp_path / "points.png")
    assert image.ndim == 3
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 2


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


def test_panels_show_what_a_run_has():
    """Nothing that is drawn appears twice, and no panel is empty."""
    ddgan = {"d_loss", "g_loss", "r1", *(f"d_loss_step_{t}" for t in (1, 2)), "time"}
    assert panels_of(ddgan) == {
        "losses": ["d_loss", "g_loss"],
        "discriminator loss per time step": ["d_loss_step_1", "d_loss_step_2"],
        "R1 penalty": ["r1"],
    }
    assert panels_of(["loss", "lr"]) == {"losses": ["loss"]}


def test_the_curves_of_every_model_are_drawn(tmp_path):
    """Of one value that only DDPM logs, and of more panels than fit in two columns."""
    logs = {
        "ddpm": ["loss"],
        "spigan": ["d_loss", "d_loss_step_1", "r1", "path_length", "augment_p"],
    }
    widths = []
    for model, names in logs.items():
        rows = [{name: float(i) for name in names} | {"step": i} for i in (1, 2)]
        write_log(tmp_path / model / "20260101_000000" / "vis_data", rows)
        plot_curves(tmp_path / model, tmp_path / f"{model}.png")
        image = np.asarray(Image.open(tmp_path / f"{model}.png").convert("L"))
        assert (image < 200).mean() > 0.005
        widths.append(image.shape[1])
    assert widths == [550, 1650]


def test_no_log_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no log"):
        read_scalars(tmp_path)
    write_log(tmp_path / "20260101_000000" / "vis_data", [{"lr": 1.0, "step": 1}])
    with pytest.raises(UserError, match="holds none of the curves"):
        plot_curves(tmp_path, tmp_path / "curves.png")


def test_digits_are_drawn(tmp_path):
    samples = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8)
    plot_digits({"one": (samples[:2], [1, 2])}, tmp_path / "few.png", columns=3)
    plot_digits({"one": (samples[:2], [1, 2]), "two": (samples, range(7))}, tmp_path / "all.png")
    few, everything = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("few", "all"))
    assert few.std() > 0
    assert everything.shape[0] > few.shape[0]

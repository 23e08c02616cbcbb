"""The draws of a train step are those of the global batch, whatever the number of processes."""

import pytest
import torch

from ddgan.models import ImagePreprocessor, PointPreprocessor
from ddgan.models import rng as module
from ddgan.models.rng import StepRandom


def draws(rank, world_size, monkeypatch, total=8):
    monkeypatch.setattr(module, "get_dist_info", lambda: (rank, world_size))
    torch.manual_seed(11)
    random = StepRandom(total // world_size, torch.device("cpu"))
    values = random.integers(1, 4), random.normal((2, 3)), random.uniform()
    return values, torch.rand(3)


def test_processes_share_out_the_global_batch(monkeypatch):
    (t, x, u), alone = draws(0, 1, monkeypatch)
    private = [alone]
    for rank in range(2):
        (t_r, x_r, u_r), own = draws(rank, 2, monkeypatch)
        assert torch.equal(t_r, t[rank::2])
        assert torch.equal(x_r, x[rank::2])
        assert torch.equal(u_r, u[rank::2])
        private.append(own)
    # Dropout and the like must differ between the processes.
    assert not torch.equal(private[1], private[2])


def test_ranges(monkeypatch):
    (t, x, u), _ = draws(0, 1, monkeypatch, total=4096)
    assert t.unique().tolist() == [1, 2, 3, 4]
    assert x.shape == (4096, 2, 3)
    assert abs(x.mean()) < 0.05
    assert 0 <= u.min() <= u.max() < 1


def test_image_preprocessor_scales_and_flips_about_half():
    images = torch.randint(0, 256, (400, 3, 4, 5), dtype=torch.uint8)
    random = StepRandom(400, torch.device("cpu"))
    plain = ImagePreprocessor()({"x": images}, random)
    torch.testing.assert_close(plain, images.double().div(127.5).sub(1).float())
    assert plain.min() >= -1
    assert plain.max() <= 1
    flipped = ImagePreprocessor(flip=True)({"x": images}, random)
    same = (flipped == plain).flatten(1).all(1)
    mirrored = (flipped == plain.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 140 < mirrored.sum() < 260


def test_point_preprocessor_keeps_the_points():
    points = torch.randn(5, 2, dtype=torch.float64)
    x0 = PointPreprocessor()({"x": points}, StepRandom(5, torch.device("cpu")))
    assert x0.dtype == torch.float32
    torch.testing.assert_close(x0, points.float())


def test_preprocessors_give_back_what_they_took():
    random = StepRandom(5, torch.device("cpu"))
    points = torch.randn(5, 2)
    scaled = PointPreprocessor(scale=4.0)
    torch.testing.assert_close(scaled({"x": points}, random), 4 * points)
    torch.testing.assert_close(scaled.restore(4 * points), points)
    with pytest.raises(ValueError, match="scale is 0"):
        PointPreprocessor(scale=0)
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    whole = ImagePreprocessor()
    assert torch.equal(whole.restore(whole({"x": images}, random)), images)
    beyond = torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2)
    assert whole.restore(beyond).flatten().tolist() == [0, 255]

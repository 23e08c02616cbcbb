"""The transforms of adaptive augmentation, against what they are said to do."""

import math

import numpy as np
import pytest
import scipy.spatial.transform
import scipy.stats
import torch
import torch.nn.functional as F

from ddgan.models import augment_transforms as matrices
from ddgan.models.augment_transforms import LOW_PASS, permute_pixels, recolour, warp
from ddgan.models.wavelets import symlet


class Normals:
    """The one method of StepRandom that augmentation calls."""

    def __init__(self, n, seed=0):
        self.n = n
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape):
        return torch.randn((self.n, *shape), generator=self.generator)


def draws(n, count, p, seed=0):
    return matrices.TransformRandom(Normals(n, seed), count, torch.tensor(p))


def images(n=4, channels=3, size=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, channels, size, size, generator=generator, dtype=dtype) * 2 - 1


def numbers(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_geometry_matrices_move_points():
    point = numbers(2, 1, 1)

    def image(matrix):
        return (matrix[0] @ point)[:2]

    torch.testing.assert_close(image(matrices.translation(numbers(3), numbers(-1))), numbers(5, 0))
    torch.testing.assert_close(image(matrices.scaling(numbers(2), numbers(0.5))), numbers(4, 0.5))
    torch.testing.assert_close(image(matrices.rotation(numbers(math.pi / 2))), numbers(-1, 2))
    for turns in range(-4, 5):
        exact = matrices.quarter_turns(numbers(turns))
        torch.testing.assert_close(exact, matrices.rotation(numbers(turns * math.pi / 2)))
        assert torch.equal(exact, exact.round())


def colours(matrix, values):
    return (matrix[0] @ torch.cat([values, torch.ones(1)]))[:3]


def test_colour_matrices_do_what_their_names_say():
    colour, grey = numbers(0.5, -0.2, 0.1), numbers(0.3, 0.3, 0.3)
    mean = colour.mean()
    affine = matrices.affine_colour(numbers(2), numbers(0.25))
    torch.testing.assert_close(colours(affine, colour), 2 * colour + 0.25)
    # Luma becomes its negative, and what is not luma stays.
    flip = matrices.luma_flip(torch.tensor([True]))
    torch.testing.assert_close(colours(flip, colour), colour - 2 * mean)
    # A third of a turn of hue moves red to green to blue.
    hue = matrices.hue_rotation(numbers(2 * math.pi / 3))
    torch.testing.assert_close(colours(hue, colour), colour.roll(1))
    hue = matrices.hue_rotation(numbers(1.1))
    torch.testing.assert_close(colours(hue, grey), grey)
    torch.testing.assert_close(colours(hue, colour).norm(), colour.norm())
    saturation = matrices.saturation_matrix(numbers(0.3))
    torch.testing.assert_close(colours(saturation, colour), mean + 0.3 * (colour - mean))


def test_matrices_are_the_identity_where_nothing_is_drawn():
    assert torch.equal(matrices.pixel_matrices(draws(5, 7, 0.0), 8), torch.eye(3).expand(5, 3, 3))
    geometry = matrices.geometry_matrices(draws(5, 11, 0.0), 8)
    assert torch.equal(geometry, torch.eye(3).expand(5, 3, 3))
    assert torch.equal(matrices.colour_matrices(draws(5, 10, 0.0)), torch.eye(4).expand(5, 4, 4))


def test_groups_take_the_draws_they_are_given():
    for count, group in (
        (matrices.PIXEL_DRAWS, lambda d: matrices.pixel_matrices(d, 8)),
        (matrices.GEOMETRY_DRAWS, lambda d: matrices.geometry_matrices(d, 8)),
        (matrices.COLOUR_DRAWS, matrices.colour_matrices),
    ):
        used = draws(3, count, 0.5)
        assert group(used).isfinite().all()
        with pytest.raises(StopIteration):
            used.uniform()


def test_draws_have_their_distributions():
    n = 5000
    d = draws(n, 6, 0.3)
    assert scipy.stats.kstest(d.uniform(), "uniform").pvalue > 1e-3
    assert scipy.stats.kstest(d.normal(), "norm").pvalue > 1e-3
    angles = scipy.stats.uniform(-math.pi, 2 * math.pi)
    assert scipy.stats.kstest(d.angle(), angles.cdf).pvalue > 1e-3
    assert scipy.stats.kstest(d.log_normal(0.2).log2() / 0.2, "norm").pvalue > 1e-3
    assert d.applied().float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert d.applied(torch.tensor(0.8)).float().mean().item() == pytest.approx(0.8, abs=0.03)


def rotated(angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def moved(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


@pytest.mark.parametrize("seed", range(4))
def test_groups_compose_their_transforms_in_the_published_order(seed):
    """From the draws at p = 1, as matrices that map old to new positions, inverted at the end."""
    size = 32

    def table(count):
        normals = Normals(1, seed).normal((count,))[0].double().numpy()
        return normals, scipy.stats.norm.cdf(normals)

    _, u = table(7)
    flip = np.diag([-1.0 if u[1] < 0.5 else 1.0, 1, 1])
    turn = rotated(math.floor(4 * u[2]) * math.pi / 2)
    shift = moved(*(round((2 * v - 1) * 0.125 * size) for v in u[5:7]))
    group = matrices.pixel_matrices(draws(1, 7, 1.0, seed), size)[0]
    np.testing.assert_allclose(group, np.linalg.inv(shift @ turn @ flip), atol=1e-5)

    n, u = table(11)
    scale, aspect = 2 ** (0.2 * n[1]), 2 ** (0.2 * n[5])
    group = matrices.geometry_matrices(draws(1, 11, 1.0, seed), size)[0]
    expected = (
        moved(0.125 * size * n[9], 0.125 * size * n[10])
        @ rotated((2 * u[6] - 1) * math.pi)
        @ np.diag([aspect, 1 / aspect, 1])
        @ rotated((2 * u[2] - 1) * math.pi)
        @ np.diag([scale, scale, 1])
    )
    np.testing.assert_allclose(group, np.linalg.inv(expected), atol=1e-4)

    n, u = table(10)
    group = matrices.colour_matrices(draws(1, 10, 1.0, seed))[0].numpy()
    colour = np.array([0.5, -0.2, 0.1])
    grey = np.full(3, 1 / math.sqrt(3))
    expected = (colour + 0.2 * n[0]) * 2 ** (0.5 * n[3])
    if u[5] < 0.5:
        expected = expected - 2 * grey * (grey @ expected)
    turn = scipy.spatial.transform.Rotation.from_rotvec((2 * u[6] - 1) * math.pi * grey)
    expected = turn.apply(expected)
    luma = grey * (grey @ expected)
    expected = luma + 2 ** n[9] * (expected - luma)
    np.testing.assert_allclose(group[:3, :3] @ colour + group[:3, 3], expected, atol=1e-4)


def test_probabilities_of_the_groups():
    n, p = 20_000, 0.4

    def share(group):
        identity = torch.eye(group.shape[1])
        return (group == identity).all(2).all(1).float().mean().item()

    # Reflection does nothing half of the time, a turn a quarter of the time; two turns share p;
    # a translation of 1000 pixels is hardly ever by zero.
    still = (1 - p / 2) * (1 - p * 3 / 4) * (1 - p)
    assert share(matrices.pixel_matrices(draws(n, 7, p), 1000)) == pytest.approx(still, abs=0.02)
    assert share(matrices.geometry_matrices(draws(n, 11, p), 8)) == pytest.approx(
        (1 - p) ** 4, abs=0.02
    )
    assert share(matrices.colour_matrices(draws(n, 10, p))) == pytest.approx(
        (1 - p) ** 4 * (1 - p / 2), abs=0.02
    )


def test_translations_stay_within_an_eighth():
    shifts = matrices.pixel_matrices(draws(5000, 7, 1.0), 32)[:, :2, 2]
    assert torch.equal(shifts, shifts.round())
    assert shifts.abs().max() == 4


@pytest.mark.parametrize("size", [1, 5, 8])
def test_flips_and_turns_are_exact(size):
    x = images(1, size=size)
    mirror = matrices.scaling(numbers(-1), numbers(1))
    assert torch.equal(permute_pixels(x, mirror), x.flip(3))
    for turns in range(-3, 4):
        # From x to y, down, is clockwise, and the old position is looked up.
        turned = permute_pixels(x, matrices.quarter_turns(numbers(turns)))
        assert torch.equal(turned, x.rot90(turns, (2, 3)))


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, -3), (2, 5), (-20, 9)])
def test_translations_are_exact_and_reflect(dx, dy):
    x = images(1)
    out = permute_pixels(x, matrices.translation(numbers(-dx), numbers(-dy)))
    padded = np.pad(x[0].numpy(), ((0, 0), (24, 24), (24, 24)), mode="symmetric")
    expected = padded[:, 24 - dy : 32 - dy, 24 - dx : 32 - dx]
    assert np.array_equal(out[0].numpy(), expected)


def test_pixel_transforms_are_flip_then_turn_then_translation():
    """Each drawn matrix, applied to positions one by one, finds the pixel."""
    x, drawn = images(6), matrices.pixel_matrices(draws(6, 7, 1.0, seed=5), 8)
    out = permute_pixels(x, drawn)
    for i in range(6):
        for row, column in ((0, 0), (3, 6), (7, 1)):
            old = drawn[i] @ numbers(column - 3.5, row - 3.5, 1) + 3.5
            c, r = (int(v) % 16 for v in old[:2])
            r, c = min(r, 15 - r), min(c, 15 - c)
            assert torch.equal(out[i, :, row, column], x[i, :, r, c])


# sym6 as wavelet tables print it.
SYM6 = [
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
]


def test_low_pass_is_the_published_wavelet():
    np.testing.assert_allclose(np.sqrt(2) * np.array(LOW_PASS), SYM6, atol=1e-11)


@pytest.mark.parametrize("moments", [1, 2, 4, 6])
def test_symlets_are_orthogonal_and_flat_at_the_ends_of_the_band(moments):
    h = symlet(moments)
    assert h.shape == (2 * moments,)
    for shift in range(moments):
        assert h[2 * shift :] @ h[: len(h) - 2 * shift] == pytest.approx(
            float(shift == 0), abs=1e-9
        )
    k = np.arange(len(h))
    for power in range(moments):
        assert ((-1.0) ** k * (k - k.mean()) ** power) @ h == pytest.approx(0, abs=1e-7)
    assert h.sum() == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize("degrees", [10, 25, 45])
def test_warped_noise_keeps_the_published_share_of_its_variance(degrees):
    """The reference code keeps 0.61 to 0.71."""
    torch.manual_seed(0)
    x = torch.randn(32, 1, 64, 64)
    out = warp(x, matrices.rotation(torch.full((32,), math.radians(degrees))))
    assert 0.61 < out[:, :, 20:-20, 20:-20].var().item() < 0.71


def waves(x, y):
    """A smooth image as a function of the position."""
    return torch.sin(0.5 * x + 0.2) * torch.cos(0.4 * y) + 0.3 * torch.cos(0.3 * (x + y))


@pytest.mark.parametrize("seed", range(3))
def test_warping_agrees_with_a_known_function(seed):
    height, width = 24, 20
    ys, xs = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2,
        torch.arange(width) - (width - 1) / 2,
        indexing="ij",
    )
    drawn = matrices.geometry_matrices(draws(8, 11, 1.0, seed), 16)
    x = waves(xs, ys).expand(8, 1, height, width)
    out = warp(x, drawn)[:, 0]
    old = torch.einsum("nij,jhw->nihw", drawn, torch.stack([xs, ys, torch.ones_like(xs)]))
    # Where the old position, and what the filters see around it, is well inside the image.
    inside = (old[:, 0].abs() < width / 2 - 5) & (old[:, 1].abs() < height / 2 - 5)
    expected = waves(old[:, 0], old[:, 1])
    assert inside.sum() > 100
    assert (out - expected)[inside].abs().max() < 0.06


def test_warping_by_the_identity_hardly_blurs():
    height, width = 16, 12
    ys, xs = torch.meshgrid(torch.arange(16) - 7.5, torch.arange(12) - 5.5, indexing="ij")
    x = waves(xs, ys)[None, None]
    out = warp(x, torch.eye(3)[None])
    assert out.shape == (1, 1, height, width)
    assert (out - x)[..., 3:-3, 3:-3].abs().max() < 0.01


def smooth_images(n, size=16):
    coarse = images(n, size=size // 4)
    return F.interpolate(coarse, size=size, mode="bilinear")


def test_warping_reflects_beyond_the_edges():
    """By whole pixels it is what the exact translation makes of the image."""
    x = smooth_images(1)
    for dx, dy in ((3, -2), (-13, 6), (30, 0)):
        shift = matrices.translation(numbers(dx), numbers(dy))
        assert (warp(x, shift) - permute_pixels(x, shift)).abs().max() < 0.1
    # Within the image exactly; beyond, the filter is not that of the mirror image.
    x, shift = images(1, size=20), matrices.translation(numbers(2), numbers(-1))
    moved = (warp(x, shift) - permute_pixels(x, shift)).abs()
    assert moved[..., 5:-3, 3:-5].max() < 0.01


def test_warping_keeps_constants_and_commutes_with_reflection():
    drawn = matrices.geometry_matrices(draws(5, 11, 1.0), 8)
    torch.testing.assert_close(
        warp(torch.full((5, 2, 8, 8), 0.7), drawn), torch.full((5, 2, 8, 8), 0.7)
    )
    x, mirror = smooth_images(5), matrices.scaling(numbers(-1), numbers(1))
    mirrored = warp(x.flip(3), mirror @ drawn @ mirror).flip(3)
    assert (mirrored - warp(x, drawn)).abs().max() < 0.12


def test_colours_of_images_and_of_greys():
    x, drawn = images(6), matrices.colour_matrices(draws(6, 10, 1.0))
    out = recolour(x, drawn)
    for i in range(6):
        expected = np.tensordot(drawn[i, :3, :3].numpy(), x[i].numpy(), 1)
        np.testing.assert_allclose(
            out[i], expected + drawn[i, :3, 3].numpy()[:, None, None], atol=1e-5
        )
    grey = images(6, channels=1)
    of_three = recolour(grey.expand(-1, 3, -1, -1), drawn).mean(1, keepdim=True)
    torch.testing.assert_close(recolour(grey, drawn), of_three)

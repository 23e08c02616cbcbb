"""The random transforms of adaptive augmentation, and how they are applied to images.

(Karras et al., "Training generative adversarial networks with limited data", 2020, Appendix B.)
A transform is a homogeneous matrix per sample. Positions are (x, y, 1) in pixels from the centre
of the image, x to the right and y down; colours are (r, g, b, 1) in [-1, 1]. Positions are mapped
from the new image to the old one.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan.models.rng import StepRandom
from ddgan.models.wavelets import symlet
from ddgan.ops import upfirdn2d

# Numbers drawn per sample by each group of transforms.
PIXEL_DRAWS, GEOMETRY_DRAWS, COLOUR_DRAWS = 7, 11, 10

MAX_SHIFT = 0.125
SHIFT_STD = 0.125
LOG2_SCALE_STD = 0.2
BRIGHTNESS_STD = 0.2
LOG2_CONTRAST_STD = 0.5
LOG2_SATURATION_STD = 1.0


class TransformRandom:
    """A given number of draws per sample, handed out one after the other, from a single call.

    Each transform is applied with probability p, a tensor, which is never waited for.
    """

    def __init__(self, rng: StepRandom, count: int, p: Tensor):
        normals = rng.normal((count,))
        self._normals = iter(normals.unbind(1))
        self._uniforms = iter(torch.special.ndtr(normals).unbind(1))
        self.p = p

    def normal(self) -> Tensor:
        """(N,) standard normals."""
        next(self._uniforms)
        return next(self._normals)

    def uniform(self) -> Tensor:
        """(N,) numbers from U(0, 1)."""
        next(self._normals)
        return next(self._uniforms)

    def angle(self) -> Tensor:
        """(N,) angles from U(-π, π)."""
        return (2 * self.uniform() - 1) * math.pi

    def log_normal(self, log2_std: float) -> Tensor:
        """(N,) factors whose binary logarithms have the given standard deviation."""
        return torch.exp2(self.normal() * log2_std)

    def applied(self, p: Tensor | None = None) -> Tensor:
        """(N,) booleans, true with probability p."""
        return self.uniform() < (self.p if p is None else p)


def _matrix(rows: list[list[Any]], like: Tensor) -> Tensor:
    """Stack (N,) tensors and numbers to (N, rows, columns)."""
    full = [[e if isinstance(e, Tensor) else torch.full_like(like, e) for e in r] for r in rows]
    return torch.stack([torch.stack(row, dim=-1) for row in full], dim=-2)


def translation(x: Tensor, y: Tensor) -> Tensor:
    """(N, 3, 3) matrices that add (x, y)."""
    return _matrix([[1, 0, x], [0, 1, y], [0, 0, 1]], x)


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """(N, 3, 3) matrices that multiply by (x, y)."""
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]], x)


def rotation(angle: Tensor) -> Tensor:
    """(N, 3, 3) matrices that turn x towards y."""
    cos, sin = angle.cos(), angle.sin()
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], angle)


def quarter_turns(turns: Tensor) -> Tensor:
    """(N, 3, 3) matrices that turn x towards y by whole multiples of 90°, exactly."""
    cos = (turns % 4 == 0).to(turns.dtype) - (turns % 4 == 2).to(turns.dtype)
    sin = (turns % 4 == 1).to(turns.dtype) - (turns % 4 == 3).to(turns.dtype)
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], turns)


def pixel_matrices(rng: TransformRandom, size: int) -> Tensor:
    """Draw reflection in x, quarter turns and a translation by whole pixels: (N, 3, 3)."""
    flip = rng.applied() & (rng.uniform() < 0.5)
    turns = torch.floor(rng.uniform() * 4) * rng.applied()
    moved = rng.applied()
    x, y = (torch.round((2 * rng.uniform() - 1) * MAX_SHIFT * size) * moved for _ in range(2))
    mirror = 1 - 2 * flip.to(x.dtype)
    return scaling(mirror, torch.ones_like(mirror)) @ quarter_turns(-turns) @ translation(-x, -y)


def geometry_matrices(rng: TransformRandom, size: int) -> Tensor:
    """Draw scale, rotation, change of aspect, rotation and translation: (N, 3, 3)."""
    # Two chances to turn: together a rotation has probability p.
    p_turn = 1 - (1 - rng.p) ** 0.5
    scale = torch.where(rng.applied(), rng.log_normal(LOG2_SCALE_STD), 1.0)
    first = rng.angle() * rng.applied(p_turn)
    aspect = torch.where(rng.applied(), rng.log_normal(LOG2_SCALE_STD), 1.0)
    second = rng.angle() * rng.applied(p_turn)
    moved = rng.applied()
    x, y = (rng.normal() * SHIFT_STD * size * moved for _ in range(2))
    return (
        scaling(1 / scale, 1 / scale)
        @ rotation(-first)
        @ scaling(1 / aspect, aspect)
        @ rotation(-second)
        @ translation(-x, -y)
    )


def colour_matrices(rng: TransformRandom) -> Tensor:
    """Draw brightness, contrast, luma flip, hue and saturation: (N, 4, 4), old to new colours."""
    brightness = rng.normal() * BRIGHTNESS_STD * rng.applied()
    contrast = torch.where(rng.applied(), rng.log_normal(LOG2_CONTRAST_STD), 1.0)
    flip = rng.applied() & (rng.uniform() < 0.5)
    hue = rng.angle() * rng.applied()
    saturation = torch.where(rng.applied(), rng.log_normal(LOG2_SATURATION_STD), 1.0)
    return (
        saturation_matrix(saturation)
        @ hue_rotation(hue)
        @ luma_flip(flip)
        @ affine_colour(contrast, torch.zeros_like(contrast))
        @ affine_colour(torch.ones_like(brightness), brightness)
    )


def affine_colour(factor: Tensor, offset: Tensor) -> Tensor:
    """(N, 4, 4) matrices that multiply colours by a factor and add an offset."""
    rows: list[list[Any]]
    rows = [[factor, 0, 0, offset], [0, factor, 0, offset], [0, 0, factor, offset], [0, 0, 0, 1]]
    return _matrix(rows, factor)


def luma_flip(flip: Tensor) -> Tensor:
    """(N, 4, 4) reflections in the plane through black that is normal to the grey axis."""
    identity, axis = _identity_and_axis(flip.device)
    return identity - 2 * flip.to(axis.dtype)[:, None, None] * axis


def saturation_matrix(factor: Tensor) -> Tensor:
    """(N, 4, 4) matrices that scale the distance from the grey axis."""
    identity, axis = _identity_and_axis(factor.device)
    chroma = identity - axis - torch.diag(identity[3])
    return identity + (factor[:, None, None] - 1) * chroma


def hue_rotation(angle: Tensor) -> Tensor:
    """(N, 4, 4) rotations about the grey axis by Rodrigues' formula."""
    identity, _ = _identity_and_axis(angle.device)
    # K u = v × u for the unit vector v along the grey axis.
    s = 1 / math.sqrt(3)
    k = _matrix([[0, -s, s, 0], [s, 0, -s, 0], [-s, s, 0, 0], [0, 0, 0, 0]], angle)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return identity + sin * k + (1 - cos) * (k @ k)


def _identity_and_axis(device: torch.device) -> tuple[Tensor, Tensor]:
    """The 4x4 identity and v vᵀ of the unit vector v along the grey axis."""
    axis = torch.zeros(4, 4, device=device)
    axis[:3, :3] = 1 / 3
    return torch.eye(4, device=device), axis


TAPS = 12
# The published filter, sym6.
LOW_PASS = tuple((symlet(TAPS // 2) / math.sqrt(2)).tolist())
# It is not symmetric: what it upsamples lies this far, in pixels of the image, from its place.
DELAY = (sum(k * tap for k, tap in enumerate(LOW_PASS)) - (TAPS - 1) / 2) / 2


def mirrored(index: Tensor, size: int) -> Tensor:
    """Map any integer to {0, …, size - 1} by reflection at the outer edges of the image."""
    index = index.remainder(2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def _old_positions(matrices: Tensor, ys: Tensor, xs: Tensor) -> tuple[Tensor, Tensor]:
    """x and y, each (N, H, W), of the positions (xs, ys) times the matrices."""
    # Written out, as a GPU may round the factors of a matrix product to 10 bits.
    m = matrices[..., None, None]
    x, y = (m[:, i, 0] * xs + m[:, i, 1] * ys[:, None] + m[:, i, 2] for i in range(2))
    return x, y


def _centred(count: int, like: Tensor) -> Tensor:
    """``count`` numbers at distance 1 with mean 0."""
    return torch.arange(count, device=like.device, dtype=like.dtype) - (count - 1) / 2


def permute_pixels(x: Tensor, matrices: Tensor) -> Tensor:
    """Look every pixel of square images (N, C, S, S) up at its position times (N, 3, 3).

    The matrices must map pixels' centres to pixels' centres. Beyond the edges the image is
    reflected.
    """
    n, channels, size, _ = x.shape
    line = _centred(size, matrices)
    column, row = (
        mirrored((old + (size - 1) / 2).round().long(), size)
        for old in _old_positions(matrices, line, line)
    )
    index = (row * size + column).reshape(n, 1, -1).expand(-1, channels, -1)
    return x.flatten(2).gather(2, index).reshape(x.shape)


def warp(x: Tensor, matrices: Tensor) -> Tensor:
    """Resample images (N, C, H, W) at their pixels' positions times (N, 3, 3).

    The image is upsampled twofold with a low-pass filter, interpolated linearly at twice the
    resolution and downsampled with the filter's mirror image, as is published. Beyond the edges
    the image is reflected. Twice differentiable with respect to ``x``.
    """
    height, width = x.shape[2:]
    # One pixel more than is looked up, and those that the filter needs.
    pad = 1 + TAPS // 4
    rows, columns = (
        mirrored(torch.arange(-pad, n + pad, device=x.device), n) for n in (height, width)
    )
    x = x.index_select(2, rows).index_select(3, columns)
    # Only the pixels whose filter lies inside the padded image.
    x = upfirdn2d(x, LOW_PASS, up=2, padding=(0, -1), gain=4)

    # The filter on the way down needs TAPS / 2 - 1 more pixels on each side.
    ys, xs = (_centred(2 * n + TAPS - 2, matrices) / 2 - DELAY for n in (height, width))
    old_x, old_y = _old_positions(matrices, ys, xs)
    grid = torch.stack(
        [(_folded(old, n) + DELAY) * (2 / (n + 2)) for old, n in ((old_x, width), (old_y, height))],
        dim=3,
    )
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return upfirdn2d(x, LOW_PASS[::-1], down=2)


def _folded(position: Tensor, size: int) -> Tensor:
    """Positions from the centre, reflected at the edges of the image into it."""
    from_edge = (position + size / 2).remainder(2 * size)
    return torch.minimum(from_edge, 2 * size - from_edge) - size / 2


def recolour(x: Tensor, matrices: Tensor) -> Tensor:
    """Apply (N, 4, 4) colour matrices to images (N, 3, H, W), or to the greys of (N, 1, H, W)."""
    linear, offset = matrices[:, :3, :3], matrices[:, :3, 3:]
    if x.shape[1] == 1:
        # What becomes of the luma of a grey pixel.
        linear = linear.sum(dim=(1, 2), keepdim=True) / 3
        offset = offset.mean(dim=1, keepdim=True)
    return torch.baddbmm(offset, linear, x.flatten(2)).reshape(x.shape)

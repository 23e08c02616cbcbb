"""The random transforms of adaptive augmentation as homogeneous matrices, one per sample.

(Karras et al., "Training generative adversarial networks with limited data", 2020, Appendix B.)
Positions are (x, y, 1) in pixels from the centre of the image, x to the right and y down; colours
are (r, g, b, 1) in [-1, 1]. Positions are mapped from the new image to the old one.
"""

import math

import torch
from torch import Tensor

from ddgan.models.rng import StepRandom

# Numbers drawn per sample by each group of transforms.
PIXEL_DRAWS, GEOMETRY_DRAWS, COLOUR_DRAWS = 7, 11, 10

MAX_SHIFT = 0.125
SHIFT_STD = 0.125
LOG2_SCALE_STD = 0.2
BRIGHTNESS_STD = 0.2
LOG2_CONTRAST_STD = 0.5
LOG2_SATURATION_STD = 1.0


class Draws:
    """A given number of draws per sample, one after the other, from a single call.

    Each transform is applied with probability p, a tensor, which is never waited for.
    """

    def __init__(self, rng: StepRandom, count: int, p: Tensor):
        normals = rng.normal((count,))
        self._normals = iter(normals.unbind(1))
        self._uniforms = iter(torch.special.ndtr(normals).unbind(1))
        self.p = p

    def normal(self) -> Tensor:
        """Return (N,) standard normals."""
        next(self._uniforms)
        return next(self._normals)

    def uniform(self) -> Tensor:
        """Return (N,) numbers from U(0, 1)."""
        next(self._normals)
        return next(self._uniforms)

    def angle(self) -> Tensor:
        """Return (N,) angles from U(-π, π)."""
        return (2 * self.uniform() - 1) * math.pi

    def log_normal(self, log2_std: float) -> Tensor:
        """Return (N,) factors whose binary logarithms have the given standard deviation."""
        return torch.exp2(self.normal() * log2_std)

    def applied(self, p: Tensor | None = None) -> Tensor:
        """Return (N,) booleans, true with probability p."""
        return self.uniform() < (self.p if p is None else p)


def _matrix(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """Stack (N,) tensors and numbers to (N, rows, columns)."""
    full = [[e if isinstance(e, Tensor) else torch.full_like(like, e) for e in r] for r in rows]
    return torch.stack([torch.stack(row, dim=-1) for row in full], dim=-2)


def translation(x: Tensor, y: Tensor) -> Tensor:
    """Return (N, 3, 3) matrices that add (x, y)."""
    return _matrix([[1, 0, x], [0, 1, y], [0, 0, 1]], x)


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Return (N, 3, 3) matrices that multiply by (x, y)."""
    return _matrix([[x, 0, 0], [0, y, 0], [0, 0, 1]], x)


def rotation(angle: Tensor) -> Tensor:
    """Return (N, 3, 3) matrices that turn x towards y."""
    cos, sin = angle.cos(), angle.sin()
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], angle)


def quarter_turns(turns: Tensor) -> Tensor:
    """Return (N, 3, 3) matrices that turn x towards y by whole multiples of 90°, exactly."""
    cos = (turns % 4 == 0).to(turns.dtype) - (turns % 4 == 2).to(turns.dtype)
    sin = (turns % 4 == 1).to(turns.dtype) - (turns % 4 == 3).to(turns.dtype)
    return _matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], turns)


def pixel_matrices(draws: Draws, size: int) -> Tensor:
    """Draw reflection in x, quarter turns and a translation by whole pixels: (N, 3, 3)."""
    flip = draws.applied() & (draws.uniform() < 0.5)
    turns = torch.floor(draws.uniform() * 4) * draws.applied()
    moved = draws.applied()
    x, y = (torch.round((2 * draws.uniform() - 1) * MAX_SHIFT * size) * moved for _ in range(2))
    mirror = 1 - 2 * flip.to(x.dtype)
    return scaling(mirror, torch.ones_like(mirror)) @ quarter_turns(-turns) @ translation(-x, -y)


def geometry_matrices(draws: Draws, size: int) -> Tensor:
    """Draw scale, rotation, change of aspect, rotation and translation: (N, 3, 3)."""
    # Two chances to turn: together a rotation has probability p.
    p_turn = 1 - (1 - draws.p) ** 0.5
    scale = torch.where(draws.applied(), draws.log_normal(LOG2_SCALE_STD), 1.0)
    first = draws.angle() * draws.applied(p_turn)
    aspect = torch.where(draws.applied(), draws.log_normal(LOG2_SCALE_STD), 1.0)
    second = draws.angle() * draws.applied(p_turn)
    moved = draws.applied()
    x, y = (draws.normal() * SHIFT_STD * size * moved for _ in range(2))
    return (
        scaling(1 / scale, 1 / scale)
        @ rotation(-first)
        @ scaling(1 / aspect, aspect)
        @ rotation(-second)
        @ translation(-x, -y)
    )


def colour_matrices(draws: Draws) -> Tensor:
    """Draw brightness, contrast, luma flip, hue and saturation: (N, 4, 4), old to new colours."""
    brightness = draws.normal() * BRIGHTNESS_STD * draws.applied()
    contrast = torch.where(draws.applied(), draws.log_normal(LOG2_CONTRAST_STD), 1.0)
    flip = draws.applied() & (draws.uniform() < 0.5)
    hue = draws.angle() * draws.applied()
    saturation = torch.where(draws.applied(), draws.log_normal(LOG2_SATURATION_STD), 1.0)
    return (
        saturation_matrix(saturation)
        @ hue_rotation(hue)
        @ luma_flip(flip)
        @ affine_colour(contrast, torch.zeros_like(contrast))
        @ affine_colour(torch.ones_like(brightness), brightness)
    )


def affine_colour(factor: Tensor, offset: Tensor) -> Tensor:
    """Return (N, 4, 4) matrices that multiply colours by a factor and add an offset."""
    rows = [[factor, 0, 0, offset], [0, factor, 0, offset], [0, 0, factor, offset], [0, 0, 0, 1]]
    return _matrix(rows, factor)


def luma_flip(flip: Tensor) -> Tensor:
    """Return (N, 4, 4) reflections in the plane through black that is normal to the grey axis."""
    identity, axis = _identity_and_axis(flip.device)
    return identity - 2 * flip.to(axis.dtype)[:, None, None] * axis


def saturation_matrix(factor: Tensor) -> Tensor:
    """Return (N, 4, 4) matrices that scale the distance from the grey axis."""
    identity, axis = _identity_and_axis(factor.device)
    chroma = identity - axis - torch.diag(identity[3])
    return identity + (factor[:, None, None] - 1) * chroma


def hue_rotation(angle: Tensor) -> Tensor:
    """Return (N, 4, 4) rotations about the grey axis by Rodrigues' formula."""
    identity, _ = _identity_and_axis(angle.device)
    # K u = v × u for the unit vector v along the grey axis.
    s = 1 / math.sqrt(3)
    k = _matrix([[0, -s, s, 0], [s, 0, -s, 0], [-s, s, 0, 0], [0, 0, 0, 0]], angle)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return identity + sin * k + (1 - cos) * (k @ k)


def _identity_and_axis(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the 4x4 identity and v vᵀ of the unit vector v along the grey axis."""
    axis = torch.zeros(4, 4, device=device)
    axis[:3, :3] = 1 / 3
    return torch.eye(4, device=device), axis

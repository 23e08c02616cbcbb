"""The transforms of adaptive augmentation that no matrix describes: filter, noise and cutout.

(Karras et al., "Training generative adversarial networks with limited data", 2020, Appendix B.)
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan.models.augment_transforms import TransformRandom, mirrored
from ddgan.models.wavelets import symlet

BANDS = 4
# Numbers drawn per sample by each group of transforms.
FILTER_DRAWS, NOISE_DRAWS, CUTOUT_DRAWS = 2 * BANDS, 2, 3

LOG2_BAND_STD = 1.0
NOISE_STD = 0.1
CUTOUT_SIZE = 0.5

# How the power of natural images, 1/f, is spread over the bands, from low to high frequencies.
BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


def _filter_bank() -> np.ndarray:
    """Symmetric filters (4, 43) whose sum is the identity: octaves of the wavelet sym2."""
    h = symlet(2)
    low = np.convolve(h, h[::-1]) / 2
    # H(-z) instead of H(z): the other half of the band.
    high = low * (-1.0) ** (np.arange(len(low)) - len(low) // 2)
    bank = np.eye(BANDS, 1)
    for band in range(1, BANDS):
        twice = np.zeros((BANDS, 2 * bank.shape[1] - 1))
        twice[:, ::2] = bank
        bank = np.stack([np.convolve(row, low) for row in twice])
        centre = bank.shape[1] // 2
        bank[band, centre - len(high) // 2 : centre + len(high) // 2 + 1] += high
    return bank


FILTER_BANK = _filter_bank()


def band_gains(rng: TransformRandom) -> tuple[Tensor, Tensor]:
    """Gains (N, 4) of the bands, and which images (N,) they change.

    Each band is amplified with probability p, and all of them rescaled to keep the power of an
    image with a 1/f spectrum.
    """
    gains = torch.ones_like(rng.p)
    changed = torch.zeros((), dtype=torch.bool, device=rng.p.device)
    power = torch.tensor(BAND_POWER, device=rng.p.device)
    for band in range(BANDS):
        applied = rng.applied()
        factor = torch.where(applied, rng.log_normal(LOG2_BAND_STD), 1.0)
        one = torch.eye(BANDS, device=factor.device)[band]
        amplified = 1 + (factor[:, None] - 1) * one
        gains = gains * amplified / (power * amplified.square()).sum(1, keepdim=True).sqrt()
        changed = changed | applied
    return gains, changed


def filter_bands(x: Tensor, gains: Tensor, changed: Tensor) -> Tensor:
    """Amplify the bands of images (N, C, H, W) by (N, 4) along both axes, where ``changed`` (N,).

    Beyond the edges an image is reflected.
    """
    n, channels, height, width = x.shape
    bank = torch.from_numpy(FILTER_BANK).to(x)
    taps = (gains.to(x.dtype) @ bank).repeat_interleave(channels, dim=0)[:, None]
    pad = bank.shape[1] // 2
    rows, columns = (
        mirrored(torch.arange(-pad, size + pad, device=x.device), size) for size in (height, width)
    )
    y = x.index_select(2, rows).index_select(3, columns).flatten(0, 1)[None]
    y = F.conv2d(y, taps[:, :, None, :], groups=n * channels)
    y = F.conv2d(y, taps[:, :, :, None], groups=n * channels)
    return torch.where(changed[:, None, None, None], y.reshape(x.shape), x)


def noise_levels(rng: TransformRandom) -> Tensor:
    """Standard deviations (N,) of noise, half-normal with probability p and else 0."""
    return rng.applied() * rng.normal().abs() * NOISE_STD


def cutout_masks(rng: TransformRandom, size: int) -> Tensor:
    """Masks (N, 1, S, S), 0 in a square of half the image's side with probability p, else 1."""
    applied = rng.applied()
    line = (torch.arange(size, device=applied.device) + 0.5) / size
    outside_x, outside_y = (
        (line - rng.uniform()[:, None]).abs() >= CUTOUT_SIZE / 2 for _ in range(2)
    )
    kept = outside_x[:, None, :] | outside_y[:, :, None] | ~applied[:, None, None]
    return kept[:, None].float()

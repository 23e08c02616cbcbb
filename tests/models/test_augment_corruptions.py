"""Filter, noise and cutout of adaptive augmentation, and DiffAugment."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch.autograd import gradcheck

from ddgan.models import DiffAugment, StyleGAN2
from ddgan.models import augment_corruptions as corruptions
from ddgan.models.augment_corruptions import FILTER_BANK
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS

from .test_augment import images
from .test_augment_transforms import draws


def test_the_bands_add_up_to_the_image_and_are_octaves():
    delta = np.eye(1, 43, 21)[0]
    np.testing.assert_allclose(FILTER_BANK.sum(0), delta, atol=1e-12)
    np.testing.assert_allclose(FILTER_BANK, FILTER_BANK[:, ::-1], atol=1e-12)
    # Of the frequencies up to Nyquist's, band 3 has the upper half, band 2 the next quarter, …
    response = np.fft.rfft(FILTER_BANK, 4096, axis=1)
    response = np.abs(response)
    for frequency, band in ((0.02, 0), (0.17, 1), (0.35, 2), (0.85, 3)):
        assert response[:, round(frequency * 2048)].argmax() == band
        assert response[band, round(frequency * 2048)] > 0.6


def test_gains_keep_the_power_of_natural_images():
    gains, changed = corruptions.band_gains(draws(4000, corruptions.FILTER_DRAWS, 0.3))
    power = torch.tensor([10.0, 1.0, 1.0, 1.0]) / 13
    assert changed.float().mean().item() == pytest.approx(1 - 0.7**4, abs=0.03)
    torch.testing.assert_close(gains[~changed], torch.ones_like(gains[~changed]))
    once, _ = corruptions.band_gains(draws(1, corruptions.FILTER_DRAWS, 0.0))
    torch.testing.assert_close(once, torch.ones(1, 4))
    # With a single band amplified by f, all are divided by the root of the power.
    rng = draws(1000, corruptions.FILTER_DRAWS, 0.05)
    gains, changed = corruptions.band_gains(rng)
    low = gains[changed & (gains[:, 1:].std(1) < 1e-6)]
    factor = low[:, 0] / low[:, 1]
    torch.testing.assert_close(low[:, 1], (power[0] * factor**2 + 3 / 13).rsqrt())


def test_filters_scale_waves_by_their_bands_gain():
    size = 64
    position = torch.arange(size) + 0.5
    # A cosine that reflects into itself at the edges, in the highest band along x, constant in y.
    wave = torch.cos(math.pi * 58 * position / size).expand(1, 1, size, size)
    gains = torch.tensor([[2.0, 1.0, 1.0, 3.0]])
    high = FILTER_BANK[3] @ np.cos(np.pi * 58 / 64 * (np.arange(43) - 21))
    out = corruptions.filter_bands(wave, gains, torch.ones(1, dtype=torch.bool))
    torch.testing.assert_close(out, 2 * wave * (1 + 2 * high), atol=0.02, rtol=0)
    same = corruptions.filter_bands(wave, gains, torch.zeros(1, dtype=torch.bool))
    assert torch.equal(same, wave)


def test_noise_is_half_normal_with_probability_p():
    levels = corruptions.noise_levels(draws(20_000, corruptions.NOISE_DRAWS, 0.4))
    assert (levels > 0).float().mean().item() == pytest.approx(0.4, abs=0.02)
    drawn = levels[levels > 0] / 0.1
    assert scipy.stats.kstest(drawn.numpy(), scipy.stats.halfnorm.cdf).pvalue > 0.01


def test_a_square_of_half_the_side_is_cut_out():
    masks = corruptions.cutout_masks(draws(3000, corruptions.CUTOUT_DRAWS, 1.0), 16)[:, 0]
    cut = 1 - masks
    rows, columns = cut.amax(2).sum(1), cut.amax(1).sum(1)
    torch.testing.assert_close(cut.sum((1, 2)), rows * columns)
    # Half of the side, or less where the square reaches beyond the image.
    assert rows.max() == columns.max() == 8
    assert rows.min() >= 3
    kept = corruptions.cutout_masks(draws(3000, corruptions.CUTOUT_DRAWS, 0.25), 16)
    assert (kept.amin((1, 2, 3)) == 1).float().mean().item() == pytest.approx(0.75, abs=0.03)


def rng(n, seed=0):
    torch.manual_seed(seed)
    return StepRandom(n, torch.device("cpu"))


def test_diff_augment_changes_colours_by_known_amounts():
    x = torch.full((4000, 3, 2, 2), 0.25)
    shift = (DiffAugment(["colour"])(x, rng(4000)) - x).amax((1, 2, 3))
    # Saturation and contrast leave a grey image alone.
    assert scipy.stats.kstest(shift.numpy(), scipy.stats.uniform(-0.5, 1).cdf).pvalue > 0.01
    x = images(4000, size=2)
    out = DiffAugment(["colour"])(x, rng(4000))
    chroma = [(v - v.mean(1, keepdim=True)).flatten(1).norm(dim=1) for v in (x, out)]
    factor = chroma[1] / chroma[0]
    assert factor.mean().item() == pytest.approx(1, abs=0.03)
    assert factor.max() <= 2 * 1.5


def test_diff_augment_moves_by_whole_pixels_and_fills_with_zeros():
    x = images(200, size=16) + 5
    out = DiffAugment(["translation"])(x, rng(200))
    seen = set()
    for image, moved in zip(x, out, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        found = [
            (dx, dy)
            for dx in range(5)
            for dy in range(5)
            if torch.equal(padded[:, dy : dy + 16, dx : dx + 16], moved)
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 25


def test_diff_augment_cuts_half_of_the_side():
    out = DiffAugment(["cutout"])(torch.ones(500, 3, 16, 16), rng(500))
    cut = (1 - out)[:, 0]
    assert (out == out[:, :1]).all()
    assert cut.amax(2).sum(1).max() == cut.amax(1).sum(1).max() == 8
    assert cut.sum((1, 2)).min() >= 16


def test_diff_augment_is_differentiable_and_registered():
    augment = MODELS.build({"type": "DiffAugment"})
    x = images(2, size=4, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda x: augment(x, rng(2)), (x,))
    with pytest.raises(ValueError, match="policy is \\['color'\\]; expected some of"):
        DiffAugment(["color"])


def test_an_augmentation_that_does_not_adapt_needs_no_update():
    model = StyleGAN2.__new__(StyleGAN2)
    torch.nn.Module.__init__(model)
    model.augment = DiffAugment()
    assert model.update_augmentation(torch.ones(2, 1)) == {}

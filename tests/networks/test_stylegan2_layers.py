import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from ddgan.networks.stylegan2_layers import (
    EqualizedConv2d,
    EqualizedLinear,
    ModulatedConv2d,
    NoiseInput,
    StyleMapping,
    channel_counts,
    modulated_conv2d,
)
from ddgan.ops import upsample2d


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def weights_per_sample(weight, style, demodulate):
    """Eqs. 1 and 3 of the paper, literally."""
    scaled = weight * style[None, :, None, None]
    if demodulate:
        scaled = scaled / (scaled**2).sum((1, 2, 3), keepdim=True).add(1e-8).sqrt()
    return scaled


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_modulation_is_a_convolution_per_sample(size, demodulate):
    x, weight, style = tensors((3, 4, 5, 6), (2, 4, size, size), (3, 4))
    out = modulated_conv2d(x, weight, style, demodulate=demodulate)
    for i in range(3):
        kernel = weights_per_sample(weight, style[i], demodulate)
        expected = F.conv2d(x[i : i + 1], kernel, padding=size // 2)
        torch.testing.assert_close(out[i : i + 1], expected)


@pytest.mark.parametrize("size", [1, 3])
def test_upsampling_is_the_filter_and_then_the_convolution_inside(size):
    x, weight, style = tensors((2, 3, 6, 5), (4, 3, size, size), (2, 3))
    out = modulated_conv2d(x, weight, style, up=True)
    assert out.shape == (2, 4, 12, 10)
    for i in range(2):
        kernel = weights_per_sample(weight, style[i], True).flip(2, 3)
        expected = F.conv2d(upsample2d(x[i : i + 1]), kernel, padding=size // 2)
        inside = (..., slice(1, -1), slice(1, -1))
        torch.testing.assert_close(out[i : i + 1][inside], expected[inside])


def test_demodulated_outputs_have_unit_variance():
    x, weight, style = tensors((8, 64, 16, 16), (32, 64, 3, 3), (8, 64))
    out = modulated_conv2d(x, 7 * weight, 50 * style)
    assert out[..., 1:-1, 1:-1].std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("up", [False, True])
def test_modulation_has_first_and_second_derivatives(up):
    inputs = [a.requires_grad_() for a in tensors((2, 2, 3, 3), (2, 2, 3, 3), (2, 2))]

    def function(x, weight, style):
        return modulated_conv2d(x, weight, style, up=up)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_style_is_an_affine_function_around_one():
    torch.manual_seed(0)
    layer = ModulatedConv2d(3, 2, 3, w_dim=5).double()
    x, w = tensors((2, 3, 4, 4), (2, 5))
    style = w @ layer.affine.weight.T / math.sqrt(5) + 1
    expected = modulated_conv2d(x, layer.weight / math.sqrt(27), style)
    torch.testing.assert_close(layer(x, w), expected)
    assert (layer.affine.bias == 1).all()


@pytest.mark.parametrize("lr_multiplier", [1.0, 0.01])
def test_linear_scales_when_used_so_that_training_is_slower(lr_multiplier):
    torch.manual_seed(0)
    layer = EqualizedLinear(400, 300, lr_multiplier=lr_multiplier, bias_init=0.5).double()
    assert layer.weight.std().item() == pytest.approx(1 / lr_multiplier, rel=0.02)
    (x,) = tensors((200, 400))
    out = layer(x)
    assert out.std().item() == pytest.approx(1, rel=0.05)
    assert out.mean().item() == pytest.approx(0.5, abs=0.05)
    # The same step in the stored parameter moves the output lr_multiplier times as far.
    with torch.no_grad():
        layer.bias += 1
    torch.testing.assert_close(layer(x), out + lr_multiplier)


def test_activation_is_leaky_relu_with_its_gain():
    torch.manual_seed(0)
    layer = EqualizedLinear(4, 3, act=True, bias_init=0.2).double()
    (x,) = tensors((5, 4))
    affine = x @ layer.weight.T / 2 + 0.2
    torch.testing.assert_close(layer(x), math.sqrt(2) * F.leaky_relu(affine, 0.2))


def test_convolution_scales_and_halves():
    torch.manual_seed(0)
    layer = EqualizedConv2d(4, 3, 3, act=False).double()
    (x,) = tensors((2, 4, 6, 8))
    expected = F.conv2d(x, layer.weight / 6, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)
    clamped = EqualizedConv2d(4, 3, 3, down=True, clamp=0.1).double()(x)
    assert clamped.shape == (2, 3, 3, 4)
    assert clamped.abs().max().item() == pytest.approx(0.1)


def test_down_convolution_filters_first():
    """A constant stays one inside, and the Nyquist frequency is removed."""
    layer = EqualizedConv2d(1, 1, 1, down=True, act=False).double()
    with torch.no_grad():
        layer.weight.fill_(1)
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(ones)[..., 1:-1, 1:-1], ones[..., :2, :2])
    alternating = ones * torch.tensor([1.0, -1.0]).repeat(4)
    assert layer(alternating)[..., 1:-1, 1:-1].abs().max() < 1e-12


def test_noise_is_of_no_strength_at_first_and_of_the_asked_kind():
    torch.manual_seed(0)
    layer = NoiseInput(3, 4)
    x = torch.zeros(2, 5, 4, 4)
    assert torch.equal(layer(x, "random"), x)
    with torch.no_grad():
        layer.strength.fill_(2)
    assert torch.equal(layer(x, "none"), x)
    assert torch.equal(layer(x, "const"), (2 * layer.const).expand(2, 5, 4, 4))
    random = layer(x, "random")
    assert torch.equal(random[:, 0], random[:, 4])
    assert not torch.equal(random[0], random[1])
    assert not torch.equal(random, layer(x, "random"))
    layers = [None, None, None, torch.arange(32.0).reshape(2, 1, 4, 4)]
    assert torch.equal(layer(x, layers)[1, 2], 2 * torch.arange(16.0, 32).reshape(4, 4))
    with pytest.raises(ValueError, match="noise is 'fixed'; expected 'random'"):
        layer(x, "fixed")


def test_mapping_normalises_its_input_only_if_asked():
    torch.manual_seed(0)
    (z,) = tensors((6, 8))
    mapping = StyleMapping(8, 5, 3).double()
    torch.testing.assert_close(mapping(7 * z), mapping(z))
    plain = StyleMapping(8, 5, 3, normalize=False).double()
    torch.testing.assert_close(plain(7 * z), 7 * plain(z))
    identity = StyleMapping(8, 8, 0)
    torch.testing.assert_close(identity(z).square().mean(1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(StyleMapping(8, 8, 0, normalize=False)(z), z)
    with pytest.raises(ValueError, match="0 layers from 8 to 5"):
        StyleMapping(8, 5, 0)


def test_mapping_is_not_rounded_by_autocast():
    torch.manual_seed(0)
    mapping, z = StyleMapping(16, 16, 2), torch.randn(4, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mapping(z), mapping.forward(z))
        out = mapping(z)
    assert torch.equal(out, mapping(z))


def test_channels_halve_up_to_a_maximum():
    assert channel_counts(32, 32768, 512) == dict.fromkeys((4, 8, 16, 32), 512)
    counts = channel_counts(256, 16384, 512)
    assert [counts[size] for size in (32, 64, 128, 256)] == [512, 256, 128, 64]


@pytest.mark.parametrize("size", [4, 12, 28, 2048])
def test_sizes_other_than_powers_of_two_are_refused(size):
    with pytest.raises(ValueError, match=rf"image_size is {size}; expected a power of two"):
        channel_counts(size, 32768, 512)


def test_feature_maps_without_channels_are_refused():
    with pytest.raises(ValueError, match="channel_base is 128"):
        channel_counts(256, 128, 512)

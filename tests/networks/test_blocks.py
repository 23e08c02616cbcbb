import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from ddgan.networks.blocks import (
    Downsample,
    InputResidual,
    InputSkip,
    OutputResidual,
    OutputSkip,
    OutputStart,
    ResBlock,
    Upsample,
)

FIR = (1.0, 3.0, 3.0, 1.0)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def correlate(x, conv, pad):
    """Convolve (N, C, H, W) with a layer's weights at every position."""
    x = np.pad(x, ((0, 0), (0, 0), pad, pad))
    weight, bias = conv.weight.detach().double().numpy(), conv.bias.detach().double().numpy()
    maps = [
        [
            sum(correlate2d(c, k, "valid") for c, k in zip(image, kernels, strict=True))
            for kernels in weight
        ]
        for image in x
    ]
    return np.array(maps) + bias[:, None, None]


def test_downsampling_without_filter_takes_means_and_upsampling_repeats():
    x = torch.randn(2, 3, 4, 6)
    down = Downsample(3, 3, with_conv=False, fir_kernel=None)(x)
    torch.testing.assert_close(down, x.reshape(2, 3, 2, 2, 3, 2).mean((3, 5)))
    up = Upsample(3, 3, with_conv=False, fir_kernel=None)(x)
    np.testing.assert_array_equal(up.numpy(), np.kron(x.numpy(), np.ones((2, 2))))


@pytest.mark.parametrize("fir_kernel", [None, FIR])
def test_convolved_downsampling_equals_its_definition(fir_kernel):
    layer = Downsample(2, 3, with_conv=True, fir_kernel=fir_kernel)
    x = torch.randn(1, 2, 6, 6)
    values, pad = x.double().numpy(), (0, 1)
    if fir_kernel:
        taps = np.outer(FIR, FIR) / np.sum(FIR) ** 2
        channels = [correlate2d(np.pad(c, 2), taps, "valid") for c in values[0]]
        values, pad = np.array(channels)[None], (0, 0)
    expected = correlate(values, layer.conv, pad)[:, :, ::2, ::2]
    assert expected.shape == (1, 3, 3, 3)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resample", [None, "up", "down"])
def test_a_fresh_residual_block_is_its_shortcut(resample):
    block = ResBlock(4, 6, resample=resample, fir_kernel=None, residual_gain=0.5)
    x, time, styles = (
        torch.randn(2, 4, 4, 4),
        torch.randn(2, 6),
        (torch.ones(2, 8), torch.ones(2, 12)),
    )
    resampled = x
    if resample is not None:
        kind = Upsample if resample == "up" else Downsample
        resampled = kind(4, 4, with_conv=False, fir_kernel=None)(x)
    out = block(x, time, *styles)
    torch.testing.assert_close(out, 0.5 * block.shortcut(resampled), rtol=1e-4, atol=1e-4)


def test_residual_block_computes_in_the_order_of_the_paper():
    block = ResBlock(4, 4, residual_gain=2.0)
    torch.nn.init.normal_(block.conv2.weight)
    assert block.shortcut is None
    x, time = torch.randn(2, 4, 3, 3), torch.randn(2, 4)
    style1, style2 = torch.randn(2, 8), torch.randn(2, 8)

    def ada_group_norm(h, style):
        # With 4 channels there is one group.
        h = (h - h.mean((1, 2, 3), keepdims=True)) / h.std((1, 2, 3), keepdims=True)
        style = style.double().numpy()[:, :, None, None]
        h = style[:, :4] * h + style[:, 4:]
        return h / (1 + np.exp(-h))

    h = correlate(ada_group_norm(x.double().numpy(), style1), block.conv1, (1, 1))
    h = ada_group_norm(h + time.double().numpy()[:, :, None, None], style2)
    expected = 2 * (x.double().numpy() + correlate(h, block.conv2, (1, 1)))
    out = block(x, time, style1, style2).detach().numpy()
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)


def test_input_pyramids():
    h, pyramid = torch.randn(1, 4, 2, 2), torch.randn(1, 3, 4, 4)
    for combine in ("sum", "cat"):
        link = InputSkip(3, 4, combine, fir_kernel=None)
        features, below = link(h, pyramid)
        torch.testing.assert_close(below, torch.nn.functional.avg_pool2d(pyramid, 2))
        skip = link.conv(below)
        expected = skip + h if combine == "sum" else torch.cat([skip, h], 1)
        torch.testing.assert_close(features, expected)
    link = InputResidual(3, 4, 0.5, FIR)
    features, below = link(h, pyramid)
    torch.testing.assert_close(features, 0.5 * (link.downsample(pyramid) + h))
    assert below is features


def test_output_pyramids():
    h = torch.randn(1, 4, 4, 4)
    start = OutputStart(4, 3, scale=1.0)
    features, image = start(h, None)
    assert features is h
    torch.testing.assert_close(image, start.conv(start.norm(h)))

    skip = OutputSkip(4, 3, fir_kernel=None)
    torch.nn.init.normal_(skip.conv.weight)
    features, above = skip(h, image[..., :2, :2])
    assert features is h
    repeated = image[..., :2, :2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(above, repeated + skip.conv(skip.norm(h)))

    residual = OutputResidual(3, 4, 0.5, FIR)
    features, above = residual(h, image[..., :2, :2])
    torch.testing.assert_close(features, 0.5 * (residual.upsample(image[..., :2, :2]) + h))
    assert above is features

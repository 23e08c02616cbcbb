import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from ddgan.networks.blocks import Downsample, InputPyramid, ResBlock
from ddgan.ops import downsample2d, upsample2d

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


def test_convolved_downsampling_equals_its_definition():
    layer = Downsample(2, 3)
    x = torch.randn(1, 2, 6, 6)
    taps = np.outer(FIR, FIR) / np.sum(FIR) ** 2
    filtered = [correlate2d(np.pad(c, 2), taps, "valid") for c in x[0].double().numpy()]
    expected = correlate(np.array(filtered)[None], layer.conv, (0, 0))[:, :, ::2, ::2]
    assert expected.shape == (1, 3, 3, 3)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resample", [None, "up", "down"])
def test_a_fresh_residual_block_is_its_shortcut(resample):
    block = ResBlock(4, 6, resample=resample)
    x, time, styles = (
        torch.randn(2, 4, 4, 4),
        torch.randn(2, 6),
        (torch.ones(2, 8), torch.ones(2, 12)),
    )
    resampled = {None: torch.clone, "up": upsample2d, "down": downsample2d}[resample](x)
    out = block(x, time, *styles)
    torch.testing.assert_close(out, 0.5**0.5 * block.shortcut(resampled), rtol=1e-4, atol=1e-4)


def test_residual_block_computes_in_the_order_of_the_paper():
    block = ResBlock(4, 4)
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
    expected = 0.5**0.5 * (x.double().numpy() + correlate(h, block.conv2, (1, 1)))
    out = block(x, time, style1, style2).detach().numpy()
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)


def test_the_input_pyramid_joins_the_features():
    h, pyramid = torch.randn(1, 4, 2, 2), torch.randn(1, 3, 4, 4)
    link = InputPyramid(3, 4)
    expected = 0.5**0.5 * (link.downsample(pyramid) + h)
    torch.testing.assert_close(link(h, pyramid), expected)

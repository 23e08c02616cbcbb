import numpy as np
import pytest
import torch

from ddgan.networks.layers import (
    Attention,
    GroupNorm,
    MappingNetwork,
    SplitLinear,
    TimeEmbedding,
    conv2d,
    group_count,
    linear,
    sinusoidal_embedding,
)


def as_numpy(tensor):
    return tensor.detach().double().numpy()


def randomize(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return module


def test_positional_features_are_sines_then_cosines_of_geometric_frequencies():
    t = np.array([0, 1, 7, 999])
    frequencies = 10_000.0 ** (-np.arange(5) / 4)
    angle = t[:, None] * frequencies
    expected = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    features = sinusoidal_embedding(torch.from_numpy(t), 10)
    np.testing.assert_allclose(as_numpy(features), expected, atol=1e-4)


@pytest.mark.parametrize("dim", [7, 2, 0])
def test_positional_features_refuse_dimensions_without_frequencies(dim):
    with pytest.raises(ValueError, match=f"has {dim} features"):
        TimeEmbedding(dim, 8, torch.nn.SiLU())


def test_mapping_network_normalises_the_latent_first():
    network = randomize(MappingNetwork(6, 5, num_layers=2))
    z = torch.randn(3, 6)
    w = as_numpy(z)
    w = w / np.sqrt((w**2).mean(axis=1, keepdims=True) + 1e-8)
    for layer in network.layers:
        w = w @ as_numpy(layer.weight).T + as_numpy(layer.bias)
        w = w / (1 + np.exp(-w))
    np.testing.assert_allclose(as_numpy(network(z)), w, rtol=1e-4, atol=1e-6)
    assert len(network.layers) == 3
    torch.testing.assert_close(network(z), network(5 * z))


def test_split_linear_equals_separate_layers():
    joined = randomize(SplitLinear(4, [3, 1, 5]))
    x = torch.randn(2, 4)
    start = 0
    for width, output in zip([3, 1, 5], joined(x), strict=True):
        rows = slice(start, start + width)
        separate = torch.nn.functional.linear(x, joined.weight[rows], joined.bias[rows])
        torch.testing.assert_close(output, separate)
        start += width


@pytest.mark.parametrize(
    ("weight", "variance"),
    [
        (conv2d(64, 32, 3).weight, 1 / (9 * 48)),
        (conv2d(64, 32, 3, fan="out").weight, 1 / (9 * 32)),
        (linear(300, 100, scale=0.1).weight, 0.1 / 200),
        (linear(100, 100, scale=0.0).weight, 1e-10 / 100),
        # Each part is initialised by its own fan, not by that of the joined layer.
        (SplitLinear(100, [100, 700], fan="out").weight[:100], 1 / 100),
        (SplitLinear(100, [100, 700], fan="out").weight[100:], 1 / 700),
    ],
)
def test_weights_start_with_the_variance_of_their_fan(weight, variance):
    assert weight.var().item() == pytest.approx(variance, rel=0.05)
    assert weight.abs().max().item() <= (3 * variance) ** 0.5 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (512, 32), (64, 16), (4, 1), (3, 1), (1, 1), (136, 17)]
)
def test_group_count(channels, groups):
    assert group_count(channels) == groups


@pytest.mark.parametrize("adaptive", [True, False])
def test_group_norm_uses_the_given_or_its_own_scale_and_shift(adaptive):
    norm = randomize(GroupNorm(8, adaptive=adaptive))
    x = torch.randn(3, 8, 5, 4)
    style = torch.randn(3, 16)
    if adaptive:
        assert not list(norm.parameters())
        y = norm(x, style)
        scale, shift = as_numpy(style[:, :8]), as_numpy(style[:, 8:])
    else:
        y = norm(x)
        scale, shift = as_numpy(norm.weight)[None], as_numpy(norm.bias)[None]
    groups = as_numpy(x).reshape(3, 2, -1)
    groups = (groups - groups.mean(-1, keepdims=True)) / np.sqrt(
        groups.var(-1, keepdims=True) + 1e-6
    )
    expected = groups.reshape(3, 8, 5, 4) * scale[..., None, None] + shift[..., None, None]
    expected = expected / (1 + np.exp(-expected))
    np.testing.assert_allclose(as_numpy(y), expected, rtol=1e-4, atol=1e-5)


def test_attention_equals_its_definition():
    layer = randomize(Attention(8, residual_gain=0.5))
    x = torch.randn(2, 8, 3, 2)
    h = as_numpy(layer.norm(x)).reshape(2, 8, 6).transpose(0, 2, 1)
    qkv = h @ as_numpy(layer.qkv.weight).T + as_numpy(layer.qkv.bias)
    q, k, v = np.split(qkv, 3, axis=-1)
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(8)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    out = weights @ v @ as_numpy(layer.out.weight).T + as_numpy(layer.out.bias)
    expected = (as_numpy(x) + out.transpose(0, 2, 1).reshape(2, 8, 3, 2)) * 0.5
    np.testing.assert_allclose(as_numpy(layer(x)), expected, rtol=1e-4, atol=1e-5)

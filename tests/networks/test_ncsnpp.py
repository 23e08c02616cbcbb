import copy
import itertools

import pytest
import torch
from network_checks import (
    assert_autocast_keeps_the_dtype,
    assert_compiles,
    assert_trains_every_parameter,
)
from torch import nn

from ddgan.diffusion import time_index
from ddgan.networks import NCSNpp
from ddgan.networks.layers import SplitLinear
from ddgan.registry import MODELS

TINY = {
    "image_size": 8,
    "base_channels": 8,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (8,),
    "latent_dim": 3,
    "embedding_dim": 4,
    "num_mapping_layers": 1,
}


def build(**options) -> NCSNpp:
    """A tiny generator whose weights are far from the almost-zero initial ones."""
    torch.manual_seed(0)
    network = NCSNpp(**(TINY | options))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.25)
    return network


def inputs(network: NCSNpp, n: int = 2):
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(n, *network.data_shape, generator=generator)
    z = torch.randn(n, network.latent_dim, generator=generator) if network.latent_dim else None
    return x_t, torch.arange(n) % 4, z


def check_forward_and_backward(network: NCSNpp) -> None:
    x_t, t, z = inputs(network)
    x_t.requires_grad_()
    out = network(x_t, t, z)
    assert out.shape == x_t.shape
    assert out.isfinite().all()
    assert_trains_every_parameter(network, (out * torch.randn(out.shape)).sum())
    assert x_t.grad.abs().sum() > 0
    for projection in (network.time_projection, network.style_projection):
        if projection is not None:
            for part in projection.weight.grad.split(projection.widths):
                assert part.abs().sum() > 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tanh": False},
        {"dropout": 0.3},
        {"latent_dim": 0},
        {"in_channels": 1},
        {"num_mapping_layers": 0},
        {"attention_resolutions": []},
        {"channel_multipliers": (1,), "image_size": 1},
        {"channel_multipliers": (1, 1, 2), "image_size": 12},
        {"image_size": (4, 6), "attention_resolutions": (6,)},
    ],
    ids=str,
)
def test_every_switch_runs_and_trains_every_parameter(options):
    check_forward_and_backward(build(**options))


PARAMETER_COUNTS = [
    ("release, CIFAR-10", {"image_size": 32, "num_mapping_layers": 4}, 48_432_515),
    (
        "release, CelebA-HQ and LSUN",
        {"image_size": 256, "base_channels": 64, "channel_multipliers": (1, 1, 2, 2, 4, 4)},
        39_726_979,
    ),
    (
        "Table 6, CIFAR-10",
        {"image_size": 32, "latent_dim": 256, "embedding_dim": 512},
        56_927_363,
    ),
    (
        "Table 6, LSUN",
        {"image_size": 256, "channel_multipliers": (1, 1, 2, 2, 4, 4)},
        142_309_123,
    ),
]


@pytest.mark.parametrize(
    ("options", "count"), [c[1:] for c in PARAMETER_COUNTS], ids=[c[0] for c in PARAMETER_COUNTS]
)
def test_parameter_counts(options, count):
    with torch.device("meta"):
        network = NCSNpp(**options)
    assert sum(p.numel() for p in network.parameters()) == count


def test_blocks_and_attentions_of_the_published_cifar10_network():
    with torch.device("meta"):
        network = NCSNpp(32)
    blocks = network.res_blocks()
    assert len(blocks) == 28
    assert len(network.style_projection.widths) == 56
    attended = [name for name, m in network.named_modules() if type(m).__name__ == "Attention"]
    assert attended == [
        "down.1.attentions.0",
        "down.1.attentions.1",
        "mid.attention",
        "up.2.attention",
    ]


def test_the_first_output_is_almost_zero_and_styles_start_as_the_identity():
    torch.manual_seed(0)
    network = NCSNpp(**TINY)
    assert network(*inputs(network)).abs().max() < 1e-3
    for bias in network.style_projection.bias.split(network.style_projection.widths):
        scale, shift = bias.chunk(2)
        assert (scale == 1).all()
        assert (shift == 0).all()


def test_without_latent_it_is_the_adaptive_network_with_constant_styles():
    plain, adaptive = build(latent_dim=0), build()
    shared = plain.state_dict().keys() & adaptive.state_dict().keys()
    adaptive.load_state_dict({k: plain.state_dict()[k] for k in shared}, strict=False)
    norms = [norm for block in plain.res_blocks() for norm in (block.norm1, block.norm2)]
    with torch.no_grad():
        adaptive.style_projection.weight.zero_()
        adaptive.style_projection.bias.copy_(
            torch.cat([p for norm in norms for p in (norm.weight, norm.bias)])
        )
    x_t, t, z = inputs(adaptive)
    torch.testing.assert_close(adaptive(x_t, t, z), plain(x_t, t))


def test_the_samples_of_a_batch_are_independent():
    network = build().eval()
    x_t, t, z = inputs(network, n=3)
    together = network(x_t, t, z)
    for i in range(3):
        alone = network(x_t[i : i + 1], t[i : i + 1], z[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_time_and_latent_change_the_output():
    network = build().eval()
    x_t, t, z = inputs(network)
    out = network(x_t, t, z)
    assert (network(x_t, t + 1, z) - out).abs().max() > 1e-3
    assert (network(x_t, t, z.flip(0)) - out).abs().max() > 1e-3


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_time_shared_by_the_batch_gives_the_same_output_and_gradients(n):
    network = build().double()
    x_t, _, z = inputs(network, n)
    outputs, gradients = [], []
    for t in (time_index(3, x_t), torch.full((n,), 2)):
        outputs.append(network(x_t.double(), t, z.double()))
        network.zero_grad()
        outputs[-1].square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_dropout_acts_in_training_only():
    network = build(dropout=0.5)
    arguments = inputs(network)
    assert not torch.equal(network(*arguments), network(*arguments))
    network.eval()
    assert torch.equal(network(*arguments), network(*arguments))


def test_forward_compiles_to_one_graph():
    network = build().eval()
    assert_compiles(network, *inputs(network))


def test_channels_last_gives_the_same_output():
    network = build().eval()
    x_t, t, z = inputs(network)
    expected = network(x_t, t, z)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    out = last(x_t.contiguous(memory_format=torch.channels_last), t, z)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_autocast_keeps_the_dtype_of_the_input():
    network = build(tanh=False).eval()
    assert_autocast_keeps_the_dtype(network, *inputs(network))


def test_double_precision_agrees_with_single():
    network = build(tanh=False).eval()
    x_t, t, z = inputs(network)
    double = copy.deepcopy(network).double()(x_t.double(), t, z.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(network(x_t, t, z).double(), double, rtol=1e-3, atol=1e-4)


def test_no_layer_is_shared_or_left_out_of_the_joined_projections():
    network = build()
    joined = [m for m in network.modules() if isinstance(m, SplitLinear)]
    conv_outputs = [b.conv1.out_channels for b in network.res_blocks()]
    assert list(network.time_projection.widths) == conv_outputs
    norms = itertools.chain.from_iterable((b.norm1, b.norm2) for b in network.res_blocks())
    assert list(network.style_projection.widths) == [2 * norm.channels for norm in norms]
    assert network.time_projection in joined
    assert all(isinstance(m, nn.Linear) for m in joined)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 10, "channel_multipliers": (1, 1, 1)}, "10x10.*divisible by 4"),
        ({"image_size": (8, 7)}, "8x7.*divisible by 2"),
        ({"image_size": 0}, "0x0"),
        ({"channel_multipliers": ()}, "channel_multipliers is empty"),
        ({"image_size": (8, 8, 8)}, r"image_size is \(8, 8, 8\)"),
        ({"base_channels": 9}, "has 9 features"),
        ({"latent_dim": -1}, "latent_dim is -1; expected at least 0"),
        ({"num_mapping_layers": -1}, "num_mapping_layers is -1"),
        ({"num_res_blocks": 0}, "num_res_blocks is 0; expected at least 1"),
        ({"channel_multipliers": (1, 0)}, "channel_multipliers is 0"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NCSNpp(**(TINY | options))


def test_an_empty_batch_stays_empty():
    network = build()
    assert network(*inputs(network, n=0)).shape == (0, 3, 8, 8)


def test_inputs_that_do_not_fit_are_refused():
    network = build()
    x_t, t, z = inputs(network)
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 4\).*\(N, 3, 8, 8\)"):
        network(x_t[..., :4], t, z)
    with pytest.raises(ValueError, match=r"t has shape \(1,\)"):
        network(x_t, t[:1], z)
    with pytest.raises(ValueError, match=r"z is missing; expected \(2, 3\)"):
        network(x_t, t)
    with pytest.raises(ValueError, match=r"z is of shape \(2, 2\)"):
        network(x_t, t, z[:, :2])
    with pytest.raises(ValueError, match="without latent"):
        build(latent_dim=0)(x_t, t, z)


def test_a_config_builds_it_and_a_misspelt_key_does_not():
    network = MODELS.build({"type": "NCSNpp", **TINY, "channel_multipliers": [1, 2]})
    assert network.data_shape == (3, 8, 8)
    with pytest.raises(TypeError, match="base_chanels"):
        MODELS.build({"type": "NCSNpp", "image_size": 8, "base_chanels": 8})

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_checks import (
    assert_autocast_keeps_the_dtype,
    assert_compiles,
    assert_slope,
    assert_trains_every_parameter,
    squared_gradient,
)

from ddgan.networks import TimeDependentDiscriminator, minibatch_stddev

SMALL = ((128, False), (256, True), (512, True), (512, True))
LARGE = ((256, True), *[(512, True)] * 5)
TABLE_7_CIFAR10 = ((128, False), (256, True), (512, True), (512, True), (512, True))


def build(blocks=((6, False), (8, True)), **options) -> TimeDependentDiscriminator:
    """A tiny discriminator whose weights are far from the almost-zero initial ones."""
    torch.manual_seed(0)
    options = {"in_channels": 2, "stem_channels": 4, "time_embedding_dim": 8} | options
    network = TimeDependentDiscriminator(blocks=blocks, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    return network


def images(n, size=4, channels=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    shape = (n, channels, size, size)
    x_prev, x_t = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
    return x_prev, torch.arange(n) % 4, x_t


def r1_penalty(network, x_prev, t, x_t):
    x_prev = x_prev.detach().requires_grad_()
    return squared_gradient(network(x_prev, t, x_t), x_prev) / len(x_prev)


def table_7_count(blocks, channels=128):
    """Count the parameters of Table 7 by hand: stem, time MLP, blocks, linear layer."""
    count = 6 * channels + channels + 2 * (256 * 256 + 256)
    for out, _ in blocks:
        count += 9 * channels * out + out + 9 * out * out + out + channels * out + 256 * out + out
        channels = out
    return count + channels + 1 + 1


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"blocks": SMALL}, 12_741_633),
        ({"blocks": LARGE, "head_conv_scale": 1.0}, 27_737_217),
        ({"blocks": TABLE_7_CIFAR10, "head_conv": False}, table_7_count(TABLE_7_CIFAR10)),
        ({"blocks": LARGE, "head_conv": False}, table_7_count(LARGE)),
    ],
    ids=["release small", "release large", "Table 7 CIFAR-10", "Table 7 CelebA-HQ"],
)
def test_parameter_counts(options, count):
    with torch.device("meta"):
        network = TimeDependentDiscriminator(**options)
    assert sum(p.numel() for p in network.parameters()) == count


@given(n=st.integers(1, 14), group_size=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_minibatch_stddev_follows_its_definition_at_any_batch_size(n, group_size):
    x = torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    out = minibatch_stddev(x, group_size)
    assert out.shape == (n, 4, 2, 2)
    assert torch.equal(out[:, :3], x)
    groups = -(-n // group_size)
    for i in range(n):
        members = x.numpy()[[j for j in range(n) if j % groups == i % groups]]
        assert len(members) <= group_size
        expected = np.sqrt(members.var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(out[i, 3].numpy(), expected, rtol=1e-10)


def test_minibatch_stddev_survives_half_precision():
    x = torch.full((4, 2, 2, 2), 3.0, dtype=torch.float16)
    assert minibatch_stddev(x)[:, 2].float().max() == pytest.approx(1e-4, rel=1e-2)
    assert minibatch_stddev(300 * torch.randn(4, 2, 2, 2).half()).isfinite().all()


@pytest.mark.parametrize("head_conv", [True, False])
@pytest.mark.parametrize("n", [1, 3, 4, 6, 7])
def test_penalty_on_gradients_reaches_every_weight(n, head_conv):
    network = build(head_conv=head_conv)
    arguments = images(n)
    logits = network(*arguments)
    assert logits.shape == (n, 1)
    assert_trains_every_parameter(network, logits.mean() + r1_penalty(network, *arguments))


def test_second_derivatives_agree_with_finite_differences():
    network = build(blocks=((3, True),), stem_channels=3).double()
    x_prev, t, x_t = images(2, dtype=torch.float64)
    for weight in (network.stem.weight, network.blocks[0].conv1.weight, network.head_conv.weight):
        assert_slope(lambda: r1_penalty(network, x_prev, t, x_t), weight)


def test_time_and_both_images_matter():
    network = build()
    x_prev, t, x_t = images(4)
    logits = network(x_prev, t, x_t)
    for other in ((x_t, t, x_prev), (x_prev, t + 1, x_t), (x_prev, t, x_t.flip(0))):
        assert (network(*other) - logits).abs().max() > 1e-4


def test_the_head_starts_almost_at_zero_only_where_asked():
    torch.manual_seed(0)
    options = {"stem_channels": 8, "time_embedding_dim": 8, "blocks": ((8, True),)}
    small = TimeDependentDiscriminator(**options).head_conv.weight
    large = TimeDependentDiscriminator(**options, head_conv_scale=1.0).head_conv.weight
    assert small.abs().max() < 1e-5
    assert large.var().item() == pytest.approx(1 / (9 * 8), rel=0.2)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_odd_and_smallest_sizes(size):
    assert build()(*images(2, size=size)).isfinite().all()


def test_a_single_pixel_needs_no_down_block():
    assert build(blocks=((4, False),))(*images(2, size=1)).isfinite().all()


def test_autocast_keeps_the_dtype_of_the_input():
    assert_autocast_keeps_the_dtype(build(), *images(4))


def test_forward_compiles_to_one_graph():
    network = build()
    assert_compiles(network, *images(7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": ()}, "blocks is empty"),
        ({"in_channels": 3}, "in_channels is 3; expected an even number"),
        ({"stddev_group": 0}, "stddev_group is 0"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TimeDependentDiscriminator(**options)


def test_inputs_that_do_not_fit_are_refused():
    network = build()
    x_prev, t, x_t = images(2)
    with pytest.raises(ValueError, match=r"x_t \(2, 1, 4, 3\).*\(N, 1, H, W\)"):
        network(x_prev, t, x_t[..., :3])
    with pytest.raises(ValueError, match="in_channels=2"):
        network(*images(2, channels=3))
    with pytest.raises(ValueError, match=r"1x1.*at least 2 pixels"):
        network(*images(2, size=1))
    with pytest.raises(ValueError, match=r"t has shape \(3,\)"):
        network(x_prev, torch.arange(3), x_t)

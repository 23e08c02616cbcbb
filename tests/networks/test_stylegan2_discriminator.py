import itertools

import pytest
import torch
import torch.nn.functional as F
from network_checks import (
    assert_compiles,
    assert_slope,
    assert_trains_every_parameter,
    squared_gradient,
)

from ddgan.networks import StyleGAN2Discriminator, minibatch_stddev

ARCHITECTURES = ("orig", "skip", "residual")
SMALL = {"image_size": 16, "channel_base": 64, "max_channels": 6}


def discriminator(**options) -> StyleGAN2Discriminator:
    torch.manual_seed(0)
    return StyleGAN2Discriminator(**{**SMALL, **options})


def images(n, dtype=torch.float32):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=dtype)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("conditional", [False, True])
def test_penalty_on_gradients_reaches_every_weight(architecture, conditional):
    network = discriminator(
        architecture=architecture, time_embedding_dim=8 if conditional else None
    )
    x = images(5).requires_grad_()
    logits = network(x, torch.rand(5) if conditional else None)
    assert_trains_every_parameter(network, logits.mean() + squared_gradient(logits, x))


def test_second_derivatives_agree_with_finite_differences():
    d = discriminator(time_embedding_dim=8).double()
    x, t = images(2, torch.float64).requires_grad_(), torch.tensor([0.1, 0.8])
    for parameter in (d.blocks[0].conv2.weight, d.time.embedding.weight):
        assert_slope(lambda: squared_gradient(d(x, t), x), parameter)


def leaky(x):
    return 2**0.5 * F.leaky_relu(x, 0.2)


def convolved(layer, x, padding=1):
    fan_in = layer.weight[0].numel()
    return F.conv2d(x, layer.weight / fan_in**0.5, layer.bias, padding=padding)


def test_residual_discriminator_block_is_the_mean_of_two_paths():
    block = discriminator().blocks[0]
    h = torch.randn(2, 4, 16, 16)
    expected = leaky(convolved(block.conv1, h))
    down = F.pad(expected, (2, 2, 2, 2))
    taps = torch.tensor([1.0, 3, 3, 1]) / 8
    kernel = torch.outer(taps, taps).expand(4, 1, 4, 4)
    weight = block.conv2.weight / 6
    expected = leaky(F.conv2d(F.conv2d(down, kernel, groups=4), weight, stride=2))
    shortcut = F.conv2d(F.pad(h, (1, 1, 1, 1)), kernel, stride=2, groups=4)
    shortcut = convolved(block.shortcut, shortcut, padding=0)
    torch.testing.assert_close(block(h), (expected + shortcut) / 2**0.5)


def test_discriminator_is_its_parts():
    """Without blocks between, written out: 8x8 image, orig architecture, projection on the time."""
    d = discriminator(image_size=8, time_embedding_dim=8, architecture="orig", stddev_group=2)
    x, t = images(4)[..., :8, :8], torch.tensor([0.0, 0.2, 0.4, 0.6])
    h = d.blocks[0](d.from_image[0](x))
    h = d.head(d.linear(d.conv(minibatch_stddev(h, 2)).flatten(1)))
    expected = torch.stack([h[i] @ d.time(t)[i] for i in range(4)]) / 6**0.5
    torch.testing.assert_close(d(x, t)[:, 0], expected)


def test_logits_depend_on_the_time_before_training():
    network, x = (
        discriminator(time_embedding_dim=256, max_channels=64, channel_base=1024),
        images(4),
    )
    times = torch.tensor([0.1, 0.5, 0.9, 1.0])
    vectors = network.time(times)
    assert 0.3 < vectors.square().mean() < 3
    for i, j in itertools.combinations(range(4), 2):
        assert (vectors[i] - vectors[j]).abs().mean() > 0.2
        first, second = (network(x, times[k].expand(4)) for k in (i, j))
        assert (first - second).abs().mean() > 0.02
    # Fine differences of time are seen, smoothly.
    near = network.time(torch.tensor([0.5001, 0.5]))
    assert 0 < (near[0] - near[1]).abs().mean() < 0.1


def test_stddev_group_couples_the_samples_of_a_group_only():
    network, x = discriminator(stddev_group=2), images(4)
    other = torch.cat([x[:1], 3 * x[1:2], x[2:]])
    changed = (network(x) - network(other)).abs().flatten() > 1e-6
    assert changed.tolist() == [False, True, False, True]


def test_forward_compiles_to_one_graph():
    network, x, t = discriminator(time_embedding_dim=8), images(5), torch.linspace(0, 1, 5)
    assert_compiles(network, x, t)


def test_discriminator_arguments_are_checked():
    with pytest.raises(ValueError, match="stddev_group is 0"):
        discriminator(stddev_group=0)
    with pytest.raises(ValueError, match="time_embedding_dim is 7"):
        discriminator(time_embedding_dim=7)


def test_inputs_that_do_not_fit_are_refused():
    x = images(2)
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 16, 8\); expected \(N, 3, 16, 16\)"):
        discriminator()(x[..., :8])
    with pytest.raises(ValueError, match="discriminator without time"):
        discriminator()(x, torch.zeros(2))
    network = discriminator(time_embedding_dim=8)
    with pytest.raises(ValueError, match="t is missing"):
        network(x)
    with pytest.raises(ValueError, match=r"of shape \(3,\); expected \(2,\) floats"):
        network(x, torch.zeros(3))
    with pytest.raises(ValueError, match=r"t is torch.int64"):
        network(x, torch.zeros(2, dtype=torch.int64))

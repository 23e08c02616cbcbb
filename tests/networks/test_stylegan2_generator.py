"""The StyleGAN2 generator, and the sizes of both networks."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from network_checks import assert_compiles, assert_slope, assert_trains_every_parameter

from ddgan.diffusion import SampleNoise
from ddgan.networks import StyleGAN2Discriminator, StyleGAN2Generator, stylegan2_generator
from ddgan.networks.stylegan2_generator import draw_crossing
from ddgan.networks.stylegan2_layers import modulated_conv2d
from ddgan.networks.stylegan2_synthesis import noise_shapes
from ddgan.ops import upsample2d

ARCHITECTURES = ("orig", "skip", "residual")
CIFAR = {"image_size": 32, "channel_base": 32768}
PAPER256 = {"image_size": 256, "channel_base": 16384}
SMALL = {"image_size": 16, "channel_base": 64, "max_channels": 6}


def count(module):
    return sum(p.numel() for p in module.parameters())


def generator(**options) -> StyleGAN2Generator:
    """A tiny generator in evaluation mode, with noise and biases."""
    torch.manual_seed(0)
    sizes = {"latent_dim": 5, "w_dim": 7, "num_mapping_layers": 2}
    network = StyleGAN2Generator(**{**SMALL, **sizes, **options}).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("strength"):
                parameter.fill_(0.3)
            elif name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
        network.w_average.normal_()
    return network


def latents(n, dim=5, dtype=torch.float32):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(1), dtype=dtype)


def images(n, dtype=torch.float32):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=dtype)


@pytest.mark.parametrize(
    ("sizes", "layers", "num_ws", "architecture", "millions"),
    [
        (CIFAR, 2, 8, "orig", (0.53, 19.42, 20.72)),
        (PAPER256, 8, 14, "residual", (2.10, 22.67, 24.00)),
    ],
    ids=["cifar", "paper256"],
)
def test_parameter_counts_of_the_published_configurations(
    sizes, layers, num_ws, architecture, millions
):
    with torch.device("meta"):
        g = StyleGAN2Generator(num_mapping_layers=layers, **sizes)
        d = StyleGAN2Discriminator(architecture=architecture, **sizes)
    counts = tuple(round(count(m) / 1e6, 2) for m in (g.mapping, g.synthesis, d))
    assert counts == millions
    assert g.num_ws == num_ws


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_size_builds(architecture):
    for size in (8, 16, 32, 64, 128, 256, 512, 1024):
        with torch.device("meta"):
            g = StyleGAN2Generator(size, architecture=architecture)
            d = StyleGAN2Discriminator(size, architecture=architecture, time_embedding_dim=256)
        assert g.data_shape == d.data_shape == (3, size, size)
        assert g.num_ws == 2 * size.bit_length() - 4


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size, channels):
    for architecture in ARCHITECTURES:
        sizes = {"image_size": size, "image_channels": channels, "architecture": architecture}
        out = generator(**sizes)(latents(2))
        assert out.shape == (2, channels, size, size)
        assert StyleGAN2Discriminator(**SMALL | sizes)(out).shape == (2, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generator_trains_every_parameter(architecture):
    network = generator(architecture=architecture).train()
    assert_trains_every_parameter(network, network(latents(3)).square().sum())


def test_second_derivatives_agree_with_finite_differences():
    g = generator(architecture="residual").double()
    z, y = latents(2, dtype=torch.float64), images(2, torch.float64)

    def path_length():
        out, ws = g(z, noise="const", return_ws=True)
        (gradient,) = torch.autograd.grad((out * y).sum(), ws, create_graph=True)
        return gradient.square().sum()

    first, second = g.synthesis.blocks
    for parameter in (first.layer1.conv.weight, second.layer2.conv.affine.weight):
        assert_slope(path_length, parameter)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_synthesis_is_its_layers(architecture):
    """Two blocks, with another style for each layer, written out."""
    network = generator(architecture=architecture, channel_base=64).synthesis
    ws = torch.randn(3, network.num_ws, 7)

    def image_of(layer, x, w):
        weight = layer.conv.weight / layer.conv.weight.shape[1] ** 0.5
        out = modulated_conv2d(x, weight, layer.conv.affine(w), demodulate=False)
        return out + layer.bias[:, None, None]

    def styled(layer, x, w):
        conv = layer.conv
        weight = conv.weight / conv.weight[0].numel() ** 0.5
        x = modulated_conv2d(x, weight, conv.affine(w), up=conv.up)
        x = x + 0.3 * layer.noise.const + layer.bias[:, None, None]
        return 2**0.5 * F.leaky_relu(x, 0.2)

    x = styled(network.layer, network.const.expand(3, -1, -1, -1), ws[:, 0])
    images = [image_of(network.to_image, x, ws[:, 1])] if architecture == "skip" else []
    for i, block in enumerate(network.blocks):
        h = styled(block.layer1, x, ws[:, 2 * i + 1])
        h = styled(block.layer2, h, ws[:, 2 * i + 2])
        if architecture == "residual":
            weight = block.shortcut.weight / block.shortcut.weight.shape[1] ** 0.5
            h = (h + F.conv2d(upsample2d(x), weight)) / 2**0.5
        x = h
        if architecture == "skip" or i == 1:
            images = [upsample2d(image) for image in images]
            images.append(image_of(block.to_image, x, ws[:, 2 * i + 3]))
    torch.testing.assert_close(network(ws, "const"), sum(images), atol=1e-4, rtol=1e-4)


def layer_noise(indices):
    return SampleNoise(3, torch.tensor(indices)).normals(0, noise_shapes(16))


def test_samples_do_not_depend_on_the_batch():
    network, z = generator(), latents(6)
    with torch.no_grad():
        together = network(z, noise=layer_noise([0, 1, 2, 3, 4, 5]))
        for part in ([0], [1, 2], [3, 4, 5]):
            alone = network(z[part], noise=layer_noise(part))
            torch.testing.assert_close(alone, together[part], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(network(z, noise="none"), together)


def test_each_layer_has_its_own_noise():
    assert noise_shapes(16) == [(1, s, s) for s in (4, 8, 8, 16, 16)]
    network, z, layers = generator(), latents(2), layer_noise([0, 1])
    plain = network(z, noise=layers)
    for i, layer in enumerate(layers):
        assert not torch.allclose(
            network(z, noise=[*layers[:i], 2 * layer, *layers[i + 1 :]]), plain
        )
    assert not any("strength" in name for name, _ in generator(use_noise=False).named_parameters())


def test_truncation_moves_the_first_styles_towards_the_average():
    network, z = generator(), latents(3)
    _, ws = network(z, return_ws=True)
    assert torch.equal(ws, network.mapping(z)[:, None].expand(-1, network.num_ws, -1))
    _, truncated = network(z, truncation=0.7, truncation_cutoff=2, return_ws=True)
    expected = network.w_average + 0.7 * (ws[:, :2] - network.w_average)
    torch.testing.assert_close(truncated[:, :2], expected)
    assert torch.equal(truncated[:, 2:], ws[:, 2:])
    collapsed = network(z, truncation=0.0, noise="const")
    torch.testing.assert_close(collapsed, collapsed[:1].expand_as(collapsed))


def test_average_style_is_tracked_in_training_only():
    network, z = generator(), latents(4)
    before = network.w_average.clone()
    network(z)
    assert torch.equal(network.w_average, before)
    network.train()(z, mixing=(latents(4).flip(0), torch.ones(4)))
    expected = 0.995 * before + 0.005 * network.mapping(z).detach().mean(0)
    torch.testing.assert_close(network.w_average, expected)


def test_average_style_is_the_same_in_all_processes(monkeypatch):
    """As if the batches of all processes together had twice the mean."""
    asked = []

    def all_reduce(mean, op):
        asked.append(op)
        mean.mul_(2)

    monkeypatch.setattr(stylegan2_generator, "all_reduce", all_reduce)
    network, z = generator().train(), latents(4)
    before = network.w_average.clone()
    network(z)
    expected = 0.995 * before + 0.01 * network.mapping(z).detach().mean(0)
    torch.testing.assert_close(network.w_average, expected)
    assert asked == ["mean"]


def test_style_mixing_changes_latents_at_the_crossing():
    network = generator()
    z, other = latents(6).chunk(2)
    crossing = torch.tensor([1, 3, network.num_ws])
    _, ws = network(z, mixing=(other, crossing), return_ws=True)
    for i, layer in itertools.product(range(3), range(network.num_ws)):
        source = other if layer >= crossing[i] else z
        torch.testing.assert_close(ws[i, layer], network.mapping(source)[i])


def test_crossings_are_uniform_over_the_layers():
    torch.manual_seed(0)
    crossing = draw_crossing(lambda: torch.rand(20_000), num_ws=5, probability=0.6)
    shares = torch.bincount(crossing, minlength=6) / 20_000
    torch.testing.assert_close(
        shares, torch.tensor([0, 0.15, 0.15, 0.15, 0.15, 0.4]), atol=0.02, rtol=0
    )
    assert (draw_crossing(lambda: torch.rand(9), 5, 0.0) == 5).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_clamp_bounds_the_image_and_autocast_hardly_changes_it(architecture):
    network, z = generator(architecture=architecture, clamp=256), latents(4)
    exact = network(z, noise="const")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(z, noise="const")
    assert (rounded - exact).norm() < 0.05 * exact.norm()
    assert generator(architecture="orig", clamp=0.01)(z).abs().max() <= 0.01


@pytest.mark.parametrize("training", [False, True])
def test_forward_compiles_to_one_graph(training):
    network, z = generator().train(training), latents(3)
    assert_compiles(network, z, noise="const")


@pytest.mark.parametrize("network", [StyleGAN2Generator, StyleGAN2Discriminator])
def test_what_cannot_be_built_is_refused(network):
    with pytest.raises(ValueError, match="image_size is 28; expected a power of two"):
        network(image_size=28)
    with pytest.raises(ValueError, match="architecture is 'resnet'; expected one of orig, skip"):
        network(architecture="resnet")
    with pytest.raises(TypeError, match="chanel_base"):
        network(chanel_base=3)


def test_latents_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"latent has shape \(2, 4\); expected \(N, 5\)"):
        generator()(torch.zeros(2, 4))

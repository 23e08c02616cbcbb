import pytest
import torch

from ddgan.networks import MLPDiscriminator, MLPGenerator


def test_sizes_of_the_paper():
    generator = MLPGenerator(num_steps=4)
    linears = [m for m in generator.modules() if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in linears] == [512, 512, 512, 2]
    assert linears[0].in_features == 2 + 1 + 2
    assert (generator.latent_dim, generator.data_shape) == (2, (2,))
    linears = [m for m in MLPDiscriminator(4).modules() if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in linears] == [512, 512, 512, 1]
    assert linears[0].in_features == 2 + 2 + 1


@pytest.mark.parametrize("latent_dim", [0, 3])
def test_generator_trains_every_parameter(latent_dim):
    generator = MLPGenerator(4, data_shape=(5,), latent_dim=latent_dim, hidden_dim=8)
    x_t, z = torch.randn(6, 5), torch.randn(6, latent_dim) if latent_dim else None
    out = generator(x_t, torch.arange(6) % 4, z)
    assert out.shape == (6, 5)
    out.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in generator.parameters())


def test_time_enters_as_a_fraction_of_the_steps():
    generator = MLPGenerator(4, latent_dim=0, hidden_dim=8)
    x_t, t = torch.randn(4, 2), torch.arange(4)
    column = torch.tensor([[0.25], [0.5], [0.75], [1.0]])
    expected = generator.out(generator.hidden(torch.cat([x_t, column], 1)))
    torch.testing.assert_close(generator(x_t, t), expected)


def test_images_keep_their_shape_and_range():
    generator = MLPGenerator(4, data_shape=(3, 4, 5), hidden_dim=8, tanh=True)
    out = generator(50 * torch.randn(6, 3, 4, 5), torch.arange(6) % 4, torch.randn(6, 2))
    assert out.shape == (6, 3, 4, 5)
    assert out.abs().max() <= 1
    logits = MLPDiscriminator(4, data_shape=(3, 4, 5), hidden_dim=8)(out, torch.arange(6) % 4, out)
    assert logits.shape == (6, 1)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_discriminator_sees_the_spread_of_the_batch(num_layers):
    torch.manual_seed(0)
    alone = MLPDiscriminator(4, hidden_dim=8, num_layers=num_layers)
    aware = MLPDiscriminator(4, hidden_dim=8, num_layers=num_layers, stddev_group=100)
    x, t = torch.randn(5, 2), torch.zeros(5, dtype=torch.int64)
    other = torch.cat([x[:1], 3 * x[1:]])
    for network, same in ((alone, True), (aware, False)):
        first, second = network(x, t, x)[0], network(other, t, other)[0]
        assert torch.equal(first, second) == same


def test_discriminator_sizes_are_checked():
    with pytest.raises(ValueError, match="num_layers is 0"):
        MLPDiscriminator(4, num_layers=0)
    with pytest.raises(ValueError, match="stddev_group 0"):
        MLPDiscriminator(4, stddev_group=0)


def test_discriminator_has_second_derivatives():
    torch.manual_seed(0)
    discriminator = MLPDiscriminator(4, hidden_dim=8)
    x_prev = torch.randn(6, 2, requires_grad=True)
    logits = discriminator(x_prev, torch.arange(6) % 4, torch.randn(6, 2))
    assert logits.shape == (6, 1)
    (gradient,) = torch.autograd.grad(logits.sum(), x_prev, create_graph=True)
    gradient.square().sum().backward()
    assert discriminator.hidden[0].weight.grad.abs().sum() > 0


def test_inputs_that_do_not_fit_are_refused():
    generator, discriminator = MLPGenerator(4), MLPDiscriminator(4)
    x, t, z = torch.randn(3, 2), torch.arange(3), torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"x_t has shape \(3, 1\)"):
        generator(x[:, :1], t, z)
    with pytest.raises(ValueError, match="z is missing"):
        generator(x, t)
    with pytest.raises(ValueError, match=r"z is of shape \(3, 1\)"):
        generator(x, t, z[:, :1])
    with pytest.raises(ValueError, match="without latent"):
        MLPGenerator(4, latent_dim=0)(x, t, z)
    with pytest.raises(ValueError, match=r"t has shape \(2,\)"):
        generator(x, t[:2], z)
    with pytest.raises(ValueError, match=r"x_prev has shape \(3, 1\)"):
        discriminator(x[:, :1], t, x)

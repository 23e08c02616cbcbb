"""SPI-GAN's train step against a second writing of it, its state, and sampling in one pass."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddgan.diffusion import SampleNoise
from ddgan.errors import ConfigError
from ddgan.models import SPIGAN
from ddgan.models.rng import StepRandom
from ddgan.networks import (
    MLPMapping,
    NeuralODEMapping,
    SPIGANGenerator,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
)

from .toy import batch, sgd


class ToyGenerator(nn.Module):
    """h(t) = (a + t b) x_T, image = tanh(c h) + s noise, for points; the styles are h(1)."""

    data_shape = (2,)
    noise_shapes = ((2,),)

    def __init__(self):
        super().__init__()
        for name, value in {"a": 0.6, "b": 0.3, "c": 1.1, "s": 0.2}.items():
            setattr(self, name, nn.Parameter(torch.tensor(value)))
        self.calls = 0

    def forward(self, x_T, times=None, noise=None, truncation=1.0, end=True):
        self.calls += 1
        inner = [] if times is None else [(self.a + t * self.b) * x_T for t in times]
        if not end:
            return torch.tanh(self.c * torch.stack(inner)) + self.s * noise[0], None
        styles = ((self.a + self.b) * x_T)[:, None]
        h = torch.stack([*inner, styles[:, 0]])
        return torch.tanh(self.c * h) + self.s * noise[0], styles


class ToyDiscriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.2, -0.4], [0.1, 0.3]]))
        self.v = nn.Parameter(torch.tensor([0.5, -0.2]))
        self.u = nn.Parameter(torch.tensor(0.7))

    def forward(self, x, t):
        assert t.shape == x.shape[:1]
        return ((x @ self.w * x).sum(1) + t * (x @ self.v) + self.u * t)[:, None]


def toy(**arguments):
    defaults = {
        "r1_gamma": 0.5,
        "r1_interval": 3,
        "data_preprocessor": {"type": "PointPreprocessor"},
    }
    return SPIGAN(ToyGenerator(), ToyDiscriminator(), **(defaults | arguments))


class Replay:
    """The draws of a train step of one process."""

    def __init__(self, n):
        self.n = n
        seed = int(torch.empty((), dtype=torch.int64).random_())
        self.generator = torch.Generator().manual_seed(seed)

    def times(self, count):
        drawn = torch.empty(count).uniform_(generator=self.generator)
        return [*drawn.sort().values.tolist(), 1.0]

    def normal(self, *shape):
        return torch.empty(self.n, *shape).normal_(generator=self.generator)


def reference_step(model, x0, num_points, lr, with_r1, with_length):
    """Algorithm 1, one time after the other, a backward pass for each term."""
    G, D, draws = model.generator, model.discriminator, Replay(len(x0))
    decay = math.exp(-0.25 * (20 - 0.1) - 0.5 * 0.1)

    def noisy():
        return decay * x0 + math.sqrt(1 - decay**2) * draws.normal(2)

    times = draws.times(num_points - 1)
    x_T = noisy()
    noise = draws.normal(num_points, 2)
    d_loss = 0.0
    for k, t in enumerate(times):
        fake = torch.tanh(G.c * (G.a + t * G.b) * x_T) + G.s * noise[:, k]
        real = (t * x0 + (1 - t) * x_T).requires_grad_()
        label = torch.full((len(x0),), t)
        logits = D(real, label)
        loss = (-F.logsigmoid(logits)).mean() - F.logsigmoid(-D(fake.detach(), label)).mean()
        loss.backward(retain_graph=True)
        d_loss += loss.item()
        if with_r1:
            (grad,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            (3 * 0.5 / 2 * grad.pow(2).sum(1).mean()).backward()
    with torch.no_grad():
        for p in D.parameters():
            p -= lr * p.grad
    times = draws.times(num_points - 1)
    x_T = noisy()
    noise = draws.normal(num_points, 2)
    g_loss = 0.0
    for k, t in enumerate(times):
        fake = torch.tanh(G.c * (G.a + t * G.b) * x_T) + G.s * noise[:, k]
        loss = -F.logsigmoid(D(fake, torch.full((len(x0),), t))).mean()
        loss.backward()
        g_loss += loss.item()
    if with_length:
        half = len(x0) // 2
        draws.normal(2)
        y = draws.normal(2)[:half]
        # d image / d style is diagonal: c (1 - tanh²).
        slope = G.c * (1 - torch.tanh(G.c * (G.a + G.b) * x_T[:half]) ** 2)
        lengths = (slope * y).pow(2).sum(1).sqrt()
        mean = model.path_length.mean + 0.01 * (lengths.mean().detach() - model.path_length.mean)
        (2.0 * 4 * (lengths - mean).pow(2).mean()).backward()
        model.path_length.mean.copy_(mean)
    with torch.no_grad():
        for p in G.parameters():
            p -= lr * p.grad
    return d_loss, g_loss


def literal_step(model, x0, num_points, lr, with_r1):
    """Algorithm 1 with an update inside the loop over j, first of D and then of G."""
    G, D, draws = model.generator, model.discriminator, Replay(len(x0))
    decay = math.exp(-0.25 * (20 - 0.1) - 0.5 * 0.1)

    def step(network, loss):
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for p, gradient in zip(network.parameters(), gradients, strict=True):
                p -= lr * gradient

    losses = [0.0, 0.0]
    for turn in (0, 1):
        times = draws.times(num_points - 1)
        x_T = decay * x0 + math.sqrt(1 - decay**2) * draws.normal(2)
        for t in times:
            label, noise = torch.full((len(x0),), t), draws.normal(1, 2)[:, 0]
            fake = torch.tanh(G.c * (G.a + t * G.b) * x_T) + G.s * noise
            if turn == 0:
                real = (t * x0 + (1 - t) * x_T).requires_grad_()
                logits = D(real, label)
                loss = F.softplus(-logits).mean() + F.softplus(D(fake.detach(), label)).mean()
                losses[0] += loss.item()
                if with_r1:
                    (grad,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
                    loss = loss + 3 * 0.5 / 2 * grad.pow(2).sum(1).mean()
                step(D, loss)
            else:
                loss = F.softplus(-D(fake, label)).mean()
                losses[1] += loss.item()
                step(G, loss)
    return losses


@pytest.mark.parametrize("num_points", [1, 2, 4])
@pytest.mark.parametrize("iteration", [0, 1])
def test_updates_per_time_are_those_inside_the_loop(num_points, iteration):
    model = toy(num_points=num_points, update="per_time")
    model.iteration = iteration
    other = copy.deepcopy(model)
    data = batch()

    torch.manual_seed(5)
    logs = model.train_step(data, sgd(model))
    torch.manual_seed(5)
    d_loss, g_loss = literal_step(other, data["x"], num_points, 0.1, with_r1=iteration == 0)

    assert logs["d_loss"].item() == pytest.approx(d_loss, rel=1e-5)
    assert logs["g_loss"].item() == pytest.approx(g_loss, rel=1e-5)
    assert logs["d_loss_step"].shape == (num_points,)
    for network in ("generator", "discriminator"):
        for a, b in zip(
            getattr(model, network).parameters(), getattr(other, network).parameters(), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)


def test_one_time_is_the_same_step_either_way():
    steps = []
    for update in ("summed", "per_time"):
        model = toy(num_points=1, update=update, path_length_weight=2.0)
        torch.manual_seed(3)
        logs = model.train_step(batch(), sgd(model))
        steps.append([*logs.values(), *model.parameters()])
    for a, b in zip(*steps, strict=True):
        assert torch.equal(a, b)


def test_each_time_is_an_optimizer_step_and_the_average_moves_once():
    model = toy(num_points=3, update="per_time")
    optimizers, steps = sgd(model), []
    for name, wrapper in optimizers.items():
        wrapper.optimizer.register_step_post_hook(lambda *_, name=name: steps.append(name))
    model.train_step(batch(), optimizers)
    assert steps == ["discriminator"] * 3 + ["generator"] * 3
    assert model.ema.updates == 1
    assert model.images_seen == 16


def test_updates_per_time_do_not_accumulate_gradients():
    model = toy(update="per_time")
    optimizers = sgd(model)
    optimizers["discriminator"]._accumulative_counts = 2
    with pytest.raises(ConfigError, match=r"discriminator\.accumulative_counts .* 'summed'"):
        model.train_step(batch(), optimizers)


def test_training_from_the_prior_never_sees_the_data_in_its_noise():
    """The trace of x_0 in x_T grows to a visible one where o averages windows of pixels."""
    for start, mean in (("diffused", 0.0066 * 500), ("prior", 0.0)):
        model, seen = toy(start=start), []
        model.generator.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(inputs[0])
        )
        model.train_step({"x": torch.full((4096, 2), 500.0)}, sgd(model, 0.0))
        for x in seen:
            assert x.mean().item() == pytest.approx(mean, abs=0.1)
            assert x.std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("num_points", [1, 2, 3, 5])
@pytest.mark.parametrize("iteration", [0, 1, 3, 4])
def test_train_step_is_the_algorithm(num_points, iteration):
    model = toy(num_points=num_points, path_length_weight=2.0)
    model.iteration = iteration
    other = copy.deepcopy(model)
    data = batch()
    with_r1, with_length = iteration % 3 == 0, iteration % 4 == 0

    torch.manual_seed(5)
    logs = model.train_step(data, sgd(model))
    torch.manual_seed(5)
    d_loss, g_loss = reference_step(other, data["x"], num_points, 0.1, with_r1, with_length)

    assert logs["d_loss"].item() == pytest.approx(d_loss, rel=1e-5)
    assert logs["g_loss"].item() == pytest.approx(g_loss, rel=1e-5)
    assert logs["d_loss_step"].shape == (num_points,)
    assert (("r1" in logs), ("path_length" in logs)) == (with_r1, with_length)
    state = other.state_dict()
    for name, value in model.state_dict().items():
        if torch.is_tensor(value) and not name.startswith("generator_ema"):
            torch.testing.assert_close(value, state[name], rtol=2e-5, atol=1e-6)


def test_times_are_sorted_shared_and_end_with_one():
    model = toy(num_points=4)
    torch.manual_seed(0)
    drawn = torch.stack([model.draw_times(StepRandom(3, torch.device("cpu"))) for _ in range(500)])
    assert drawn.shape == (500, 4)
    assert (drawn[:, -1] == 1).all()
    assert (drawn.diff(dim=1) >= 0).all()
    # The order statistics of three uniform draws.
    torch.testing.assert_close(
        drawn.mean(0), torch.tensor([0.25, 0.5, 0.75, 1.0]), rtol=0, atol=0.04
    )
    assert drawn[:, :3].flatten().var().item() == pytest.approx(1 / 12, rel=0.15)


def test_fixed_points_are_the_multiples_of_one_over_the_number():
    model = toy(num_points=4, fixed_points=True)
    times = model.draw_times(StepRandom(3, torch.device("cpu")))
    assert times.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert toy(num_points=1).draw_times(StepRandom(3, torch.device("cpu"))).tolist() == [1.0]
    model = toy(num_points=2, fixed_points=True, from_zero=True)
    assert model.draw_times(StepRandom(3, torch.device("cpu"))).tolist() == [0.0, 0.5, 1.0]
    assert model.images_per_sample == 3
    assert model.train_step(batch(), sgd(model))["d_loss_step"].shape == (3,)


@pytest.mark.parametrize("sde", ["ve", "subvp"])
def test_the_generator_sees_noise_of_unit_variance(sde):
    model = toy(sde=sde)
    seen = []
    model.generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.train_step(batch(4096), sgd(model))
    for x in seen:
        assert x.std().item() == pytest.approx(1, rel=0.05)


def test_regularizers_can_be_switched_off():
    model = toy(r1_gamma=0.0)
    assert model.train_step(batch(), sgd(model)).keys().isdisjoint({"r1", "path_length"})
    assert model.path_length is None


def test_no_gradient_is_left_behind_or_wasted():
    model = toy(path_length_weight=1.0)
    x0 = batch()["x"]
    loss, _ = model.discriminator_loss(x0, StepRandom(len(x0), x0.device))
    loss.backward()
    assert all(p.grad is None for p in model.generator.parameters())
    model = toy(path_length_weight=1.0)
    model.train_step(batch(), sgd(model))
    assert all(p.grad is None for p in model.parameters())


def test_sampling_depends_on_seed_and_index_alone():
    model = toy()
    full = model.sample(23, seed=3)
    for batch_size in (1, 5, 100):
        torch.testing.assert_close(model.sample(23, seed=3, batch_size=batch_size), full)
    torch.testing.assert_close(model.sample(6, seed=3, first_index=11), full[11:17])
    assert not torch.allclose(model.sample(23, seed=4), full)


def test_a_sample_is_one_evaluation_of_the_last_point():
    model = toy(sde="ve")
    G = model.generator_ema
    G.calls = 0
    samples = model.sample(7, seed=9)
    assert G.calls == model.num_evaluations == 1
    noise = SampleNoise(9, torch.arange(7))
    z, layer = noise.normal(0, (4,)).chunk(2, dim=1)
    expected = torch.tanh(G.c * (G.a + G.b) * z) + G.s * layer
    torch.testing.assert_close(samples, expected)


def image_model(**arguments):
    """A model of real parts, as small as they go."""
    torch.manual_seed(0)
    mapping = arguments.pop("mapping", None) or NeuralODEMapping(8, 8, 2, 0.1, num_steps=2)
    synthesis = StyleGAN2Generator(
        image_size=8, latent_dim=8, w_dim=8, num_mapping_layers=0, channel_base=32
    )
    for layer in (synthesis.synthesis.layer, synthesis.synthesis.blocks[0].layer1):
        nn.init.constant_(layer.noise.strength, 0.5)
    D = StyleGAN2Discriminator(
        image_size=8, channel_base=32, time_embedding_dim=8, num_time_layers=1, stddev_group=2
    )
    return SPIGAN(SPIGANGenerator(mapping, synthesis), D, **arguments)


def uint8_batch(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)}


def test_images_depend_on_seed_and_index_alone():
    model = image_model()
    full = model.sample(9, seed=2)
    assert (full.shape, full.dtype) == ((9, 3, 8, 8), torch.uint8)
    for batch_size in (1, 4):
        other = model.sample(9, seed=2, batch_size=batch_size)
        # Sums of another order may fall on the other side of a rounding.
        assert (other.int() - full.int()).abs().max() <= 1
        assert (other != full).float().mean() < 0.01
    assert (model.sample(9, seed=3) != full).float().mean() > 0.5


def test_one_evaluation_of_every_network():
    model = image_model()
    calls = []
    for name in ("embedding", "mapping", "synthesis", "synthesis.synthesis"):
        part = model.generator_ema.get_submodule(name)
        part.register_forward_hook(lambda module, i, o, name=name: calls.append(name))
    model.sample(5)
    assert sorted(calls) == ["embedding", "mapping", "synthesis", "synthesis.synthesis"]


def test_each_image_has_its_own_layer_noise():
    model = image_model()
    z = SampleNoise(0, torch.zeros(3, dtype=torch.int64))
    first, second, _ = model.draw(z, model.generator_ema)
    torch.testing.assert_close(first, second)
    noise = model.split_noise(SampleNoise(0, torch.arange(3)))[1]
    assert [tuple(layer.shape) for layer in noise] == [(3, 1, 4, 4), (3, 1, 8, 8), (3, 1, 8, 8)]
    layers = [m for m in model.generator.modules() if type(m).__name__ == "NoiseInput"]
    assert [m.const.shape for m in layers] == [s[1:] for s in model.generator.noise_shapes]
    h = torch.zeros(3, 8)
    images = model.generator_ema.render(h, noise)
    assert not torch.allclose(images[0], images[1])
    torch.testing.assert_close(model.generator_ema.render(h)[0], model.generator_ema.render(h)[1])


def test_truncation_pulls_samples_together():
    model = image_model(truncation=0.2)
    near = model.sample(16).float().std(0).mean()
    model.truncation = 1.0
    assert near < 0.8 * model.sample(16).float().std(0).mean()


def full_model(**arguments):
    return image_model(
        num_points=3,
        r1_interval=3,
        path_length_weight=2.0,
        path_length_interval=2,
        augment={"type": "AdaptiveAugmentation", "kimg": 0.05, "target": 0.0, "interval": 2},
        ema_half_life=20,
        ema_ramp_up=0.5,
        **arguments,
    )


def run(model, optimizers, start, stop):
    for iteration in range(start, stop):
        torch.manual_seed(iteration)
        model.train_step(uint8_batch(seed=iteration), optimizers)


def test_resuming_from_the_state_is_exact():
    model = full_model()
    optimizers = sgd(model, 1e-3)
    run(model, optimizers, 0, 3)
    state = copy.deepcopy(model.state_dict())
    run(model, optimizers, 3, 6)
    final = model.state_dict()

    other = full_model()
    other.load_state_dict(state)
    run(other, sgd(other, 1e-3), 3, 6)
    resumed = other.state_dict()
    assert resumed.keys() == final.keys()
    for name, value in final.items():
        same = (
            torch.equal(resumed[name], value) if torch.is_tensor(value) else resumed[name] == value
        )
        assert same, name
    for name in ("augment.p", "path_length.mean", "generator.synthesis.w_average"):
        assert not torch.equal(final[name], full_model().state_dict()[name]), name
        assert not torch.equal(final[name], state[name]), name


def test_images_are_updated_per_time():
    model = full_model(update="per_time")
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    logs = model.train_step(uint8_batch(), sgd(model))
    assert {"r1", "path_length", "augment_p", "d_loss_step"} <= logs.keys()
    # Of the three times, the last alone counts for the augmentation.
    assert model.augment.batches == 1
    after = [p for p in model.parameters() if p.requires_grad]
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("solver", ["euler", "midpoint", "dopri5", "mlp"])
def test_mappings_train_and_sample(solver):
    mapping = (
        MLPMapping(8, 8, 2, 0.1)
        if solver == "mlp"
        else NeuralODEMapping(8, 8, 2, 0.1, solver=solver, rtol=1e-2, atol=1e-2)
    )
    model = image_model(mapping=mapping)
    before = [p.detach().clone() for p in model.generator.mapping.parameters()]
    logs = model.train_step(uint8_batch(), sgd(model))
    assert logs["g_loss"].isfinite()
    after = model.generator.mapping.parameters()
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert model.sample(3).shape == (3, 3, 8, 8)


def test_average_of_styles_is_of_the_last_point_alone():
    model = image_model(num_points=3)
    G = model.generator.train()
    x_T = torch.randn(50, 3, 8, 8)
    noise = [torch.zeros(3, 50, *shape) for shape in G.noise_shapes]
    with torch.no_grad():
        images, styles = G(x_T, torch.tensor([0.1, 0.2]), noise)
        expected = 0.005 * styles[:, 0].mean(0)
        torch.testing.assert_close(G.synthesis.w_average, expected)
        assert images.shape == (3, 50, 3, 8, 8)
        # Each time by itself: the same images.
        h = G.latents(x_T, torch.tensor([0.1, 0.2]))
        for k in range(3):
            alone = G.render(h[k], [layer[k] for layer in noise])
            torch.testing.assert_close(images[k], alone, rtol=1e-4, atol=1e-5)
        average = G.synthesis.w_average.clone()
        inner, none = G(x_T, torch.tensor([0.1, 0.2]), [x[:2] for x in noise], end=False)
        torch.testing.assert_close(inner, images[:2], rtol=1e-4, atol=1e-5)
        assert none is None
        assert torch.equal(G.synthesis.w_average, average)


def test_example_inputs_fit_the_networks():
    model = image_model()
    assert model.generator(*model.example_inputs("generator"))[0].shape == (1, 1, 3, 8, 8)
    assert model.discriminator(*model.example_inputs("discriminator")).shape == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_points": 0}, "num_points is 0"),
        ({"r1_interval": 0}, "r1_interval is 0"),
        ({"path_length_interval": 0}, "path_length_interval is 0"),
        ({"r1_gamma": -1}, "r1_gamma is -1"),
        ({"path_length_weight": -1}, "path_length_weight is -1"),
        ({"sde": "x"}, "sde is 'x'"),
        ({"update": "each"}, "update is 'each'"),
        ({"start": "data"}, "start is 'data'"),
        ({"from_zero": True}, "from_zero is True and fixed_points False"),
        ({"ema_half_life": 0}, "ema_half_life is 0"),
        ({"ema_ramp_up": -1.0}, "ema_ramp_up -1.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        toy(**arguments)


def test_parts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"mapping\.dim is 9 and synthesis\.latent_dim 8"):
        image_model(mapping=MLPMapping(9, 8))

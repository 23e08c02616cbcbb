"""The one-shot GANs: their train steps against a second writing, and what the methods promise."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from ddgan.diffusion import SampleNoise
from ddgan.engine import load_config
from ddgan.errors import ConfigError
from ddgan.models import GAN, WGANGP
from ddgan.models.rng import StepRandom
from ddgan.networks import MLPLatentGenerator, MLPUnconditionalDiscriminator
from ddgan.registry import MODELS

from .toy import batch

CONFIGS = Path(__file__).parents[2] / "configs"


def build(kind, **kwargs):
    torch.manual_seed(3)
    networks = MLPLatentGenerator(hidden_dim=8), MLPUnconditionalDiscriminator(hidden_dim=8)
    return kind(*networks, data_preprocessor={"type": "PointPreprocessor"}, **kwargs)


def sgd(model, lr=0.1, **kwargs):
    names = ("generator", "discriminator")
    optimizers = {n: torch.optim.SGD(getattr(model, n).parameters(), lr=lr) for n in names}
    return OptimWrapperDict(**{n: OptimWrapper(o, **kwargs) for n, o in optimizers.items()})


class Replay:
    """The draws of a train step of points in the plane, as StepRandom makes them."""

    def __init__(self, n):
        self.n = n
        seed = int(torch.empty((), dtype=torch.int64).random_())
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self):
        return torch.empty(self.n, 2).normal_(generator=self.generator)

    def uniform(self):
        return torch.empty(self.n).uniform_(generator=self.generator)


def descend(network, lr):
    with torch.no_grad():
        for p in network.parameters():
            p -= lr * p.grad


def reference_step(model, x, lr, with_generator=True):
    """Goodfellow's and Gulrajani's algorithms, with the gradient penalty sample by sample."""
    G, D = model.generator, model.discriminator
    draws = Replay(len(x))
    fake = G(draws.normal()).detach()
    if isinstance(model, WGANGP):
        position = draws.uniform()
        penalties = []
        for real, made, a in zip(x, fake, position, strict=True):
            point = ((1 - a) * real + a * made).requires_grad_()
            (slope,) = torch.autograd.grad(D(point[None]).sum(), point, create_graph=True)
            penalties.append((slope.norm() - 1) ** 2)
        loss = D(fake).mean() - D(x).mean()
        (loss + model.penalty_weight * torch.stack(penalties).mean()).backward()
    else:
        loss = -(torch.sigmoid(D(x)).log().mean() + (1 - torch.sigmoid(D(fake))).log().mean())
        loss.backward()
    descend(D, lr)
    G.zero_grad()
    if not with_generator:
        return
    logits = D(G(draws.normal()))
    (-logits.mean() if isinstance(model, WGANGP) else F.softplus(-logits).mean()).backward()
    descend(G, lr)


@pytest.mark.parametrize("kind", [GAN, WGANGP])
def test_a_train_step_is_the_algorithm_written_out(kind):
    model = build(kind)
    other = copy.deepcopy(model)
    data = batch()
    torch.manual_seed(5)
    logs = model.train_step(data, sgd(model, 0.02))
    torch.manual_seed(5)
    reference_step(other, data["x"], 0.02)
    assert {"d_loss", "g_loss", "real_logit", "fake_logit"} <= set(logs)
    for name in ("generator", "discriminator"):
        expected = dict(getattr(other, name).named_parameters())
        for key, value in getattr(model, name).named_parameters():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-7)


def test_the_critic_steps_of_wgangp():
    """The generator moves in every third iteration alone, the critic in each."""
    model = build(WGANGP, critic_steps=3, ema_decay=0.0)
    optimizers, moved, images = sgd(model), [], []
    for seed in range(7):
        before = copy.deepcopy(model.state_dict())
        logs = model.train_step(batch(seed=seed), optimizers)
        after = model.state_dict()
        changed = {
            name.split(".")[0]
            for name, value in after.items()
            if torch.is_tensor(value) and not torch.equal(value, before[name])
        }
        assert "discriminator" in changed
        assert ("g_loss" in logs) == ("generator" in changed) == ("generator_ema" in changed)
        moved.append("generator" in changed)
        images.append(model.images_seen)
    assert moved == [True, False, False, True, False, False, True]
    assert images == [16 * i for i in range(1, 8)]
    assert (model.iteration, model.ema.updates) == (7, 3)


def test_accumulated_gradients_do_not_go_with_critic_steps():
    model = build(WGANGP)
    with pytest.raises(ConfigError, match=r"accumulative_counts is above 1.*critic_steps=5"):
        model.train_step(batch(), sgd(model, accumulative_counts=2))
    model = build(WGANGP, critic_steps=1)
    model.train_step(batch(), sgd(model, accumulative_counts=2))


@pytest.mark.parametrize("kind", [GAN, WGANGP])
def test_samples_depend_on_seed_and_index_alone(kind):
    model = build(kind)
    full = model.sample(11, seed=3)
    torch.testing.assert_close(model.sample(11, seed=3, batch_size=4), full)
    z = SampleNoise(3, torch.arange(11)).normal(0, (2,))
    torch.testing.assert_close(full, model.generator_ema(z))
    assert model.num_evaluations == 1


def test_a_gan_learns_a_gaussian():
    """Means and spread of a shifted narrow Gaussian, from 250 updates of a small network."""
    model = build(GAN, ema_decay=0.9)
    optimizers = OptimWrapperDict(
        **{
            n: OptimWrapper(torch.optim.Adam(getattr(model, n).parameters(), 5e-3, (0.5, 0.9)))
            for n in ("generator", "discriminator")
        }
    )
    target = torch.tensor([1.5, -0.5])
    for i in range(250):
        torch.manual_seed(i)
        model.train_step({"x": target + 0.3 * torch.randn(64, 2)}, optimizers)
    samples = model.sample(500)
    torch.testing.assert_close(samples.mean(0), target, rtol=0, atol=0.25)
    assert 0.05 < samples.std(0).mean() < 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"critic_steps": 0}, "critic_steps is 0"), ({"penalty_weight": -1.0}, "penalty_weight -1")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(WGANGP, **arguments)


# StyleGAN2


def stylegan2(**changes):
    cfg = load_config(CONFIGS / "stylegan2_stackeddigits.py").model.to_dict()
    torch.manual_seed(0)
    return MODELS.build({**cfg, **changes})


def images(n=4):
    generator = torch.Generator().manual_seed(0)
    return {"x": torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)}


def test_stylegan2_trains_with_all_its_regularizers():
    model = stylegan2(
        path_length_weight=2.0,
        path_length_interval=2,
        mixing_probability=0.9,
        augment={"type": "AdaptiveAugmentation", "probability": 0.5},
    )
    optimizers = sgd(model, 1e-3)
    logs = [model.train_step(images(), optimizers) for _ in range(4)]
    assert ["r1" in entry for entry in logs] == [True, False, False, False]
    assert ["path_length" in entry for entry in logs] == [True, False, True, False]
    assert all(value.isfinite() for entry in logs for value in entry.values())
    assert all("augment_p" in entry for entry in logs)


def test_lazy_r1_of_stylegan2_is_multiplied_by_its_interval():
    model = stylegan2(r1_gamma=3.0, r1_interval=4)
    x0 = torch.rand(4, 3, 8, 8)
    with_r1, logs = model.discriminator_loss(x0, StepRandom(4, x0.device))
    gap = with_r1 - logs["d_loss"]
    assert logs["r1"].item() > 1e-5
    assert gap.item() == pytest.approx(0.5 * 3.0 * 4 * logs["r1"].item(), abs=1e-6)


def test_mixing_gives_later_layers_another_style():
    model = stylegan2(mixing_probability=1.0)
    _, styles = model.generate(StepRandom(64, torch.device("cpu")))
    assert (styles[:, 0] != styles[:, -1]).any(1).all()
    _, styles = stylegan2().generate(StepRandom(64, torch.device("cpu")))
    assert torch.equal(styles[:, 0], styles[:, -1])


def test_samples_of_stylegan2_depend_on_seed_and_index_alone():
    model = stylegan2()
    for layer in model.generator_ema.modules():
        if isinstance(getattr(layer, "strength", None), nn.Parameter):
            layer.strength.data.fill_(0.5)
    full = model.sample(7, seed=2)
    # Sums of another order may fall on the other side of a rounding.
    for part, of in (
        (model.sample(7, seed=2, batch_size=3), full),
        (model.sample(3, seed=2, first_index=4), full[4:]),
    ):
        assert (part.int() - of.int()).abs().max() <= 1
    assert len(torch.unique(full, dim=0)) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r1_interval": 0}, "r1_interval is 0"),
        ({"r1_gamma": -1.0}, "r1_gamma is -1"),
        ({"mixing_probability": 1.5}, "mixing_probability is 1.5"),
    ],
)
def test_bad_arguments_of_stylegan2_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        stylegan2(**arguments)

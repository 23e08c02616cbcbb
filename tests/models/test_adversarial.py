"""The schedule of updates is a small override; the bookkeeping around it stays."""

import copy

import pytest
import torch
from torch import nn

from ddgan.engine.networks import compile_networks
from ddgan.engine.optim import build_optim_wrappers
from ddgan.models import DDGAN
from ddgan.models.rng import StepRandom

from .toy import ToyDiscriminator, ToyGenerator, batch, sgd, toy_model


class WithEncoder(DDGAN):
    """A third network with a loss and an optimizer of its own."""

    def __init__(self):
        points = {"type": "PointPreprocessor"}
        super().__init__(
            ToyGenerator(), ToyDiscriminator(), {"num_steps": 4}, data_preprocessor=points
        )
        self.encoder = nn.Linear(2, 2)

    def update_networks(self, x0, rng, optim):
        logs = super().update_networks(x0, rng, optim)
        return logs | self.update("encoder", self.encoder_loss, x0, rng, optim)

    def encoder_loss(self, x0, rng):
        loss = (self.ddp("encoder")(x0) - x0).square().mean()
        return loss, {"encoder_loss": loss.detach()}


class TwoDiscriminatorSteps(DDGAN):
    """Another schedule: two updates of the discriminator with each batch."""

    def update_networks(self, x0, rng, optim):
        self.update("discriminator", self.discriminator_loss, x0, rng, optim)
        return super().update_networks(x0, rng, optim)


def test_a_third_network_trains_beside_the_two():
    model = WithEncoder()
    other = DDGAN(
        copy.deepcopy(model.generator),
        copy.deepcopy(model.discriminator),
        {"num_steps": 4},
        data_preprocessor={"type": "PointPreprocessor"},
    )
    entry = {"optimizer": {"type": "SGD", "lr": 0.1}}
    names = ("generator", "discriminator", "encoder")
    config = {"constructor": "PerNetworkOptimWrapperConstructor"}
    optim = build_optim_wrappers(config | {n: copy.deepcopy(entry) for n in names}, model)
    losses = []
    for seed in range(20):
        torch.manual_seed(seed)
        losses.append(model.train_step(batch(seed=seed), optim)["encoder_loss"].item())
        torch.manual_seed(seed)
        other.train_step(batch(seed=seed), sgd(other))
    assert losses[-1] < 0.5 * losses[0]
    assert (model.iteration, model.images_seen, model.ema.updates) == (20, 320, 20)
    # The draws of the two networks are those that they had without it.
    for name in ("generator", "discriminator", "generator_ema"):
        expected = dict(getattr(other, name).named_parameters())
        for key, value in getattr(model, name).named_parameters():
            torch.testing.assert_close(value, expected[key])


def test_another_schedule_counts_an_iteration_once():
    torch.manual_seed(0)
    arguments = {"data_preprocessor": {"type": "PointPreprocessor"}}
    model = TwoDiscriminatorSteps(ToyGenerator(), ToyDiscriminator(), {"num_steps": 4}, **arguments)
    optim = sgd(model)
    for _ in range(3):
        model.train_step(batch(), optim)
    assert [optim[n].inner_count for n in ("discriminator", "generator")] == [6, 3]
    assert (model.iteration, model.images_seen, model.ema.updates) == (3, 48, 3)


@pytest.mark.parametrize(("times_interval", "factor"), [(False, 1), (True, 3)])
def test_the_interval_multiplies_r1_where_the_loss_says_so(times_interval, factor):
    model = toy_model(r1_gamma=0.5, r1_interval=3)
    r1 = torch.tensor(2.0)
    loss, logs = model.add_r1(torch.tensor(1.0), {}, r1, times_interval)
    assert loss.item() == pytest.approx(1 + 0.5 * 0.5 * factor * 2)
    assert logs == {"r1": r1}
    assert model.add_r1(loss, {}, None, times_interval) == (loss, {})


def test_ddgan_s_r1_is_not_multiplied_and_due_at_its_interval():
    for iteration in range(4):
        model = toy_model(r1_gamma=0.5, r1_interval=3)
        model.iteration = iteration
        x0 = batch()["x"]
        loss, logs = model.discriminator_loss(x0, StepRandom(len(x0), x0.device))
        assert ("r1" in logs) == (iteration % 3 == 0)
        expected = logs["d_loss"] + 0.25 * logs.get("r1", 0.0)
        torch.testing.assert_close(loss.detach(), expected)


def test_compilation_reaches_all_networks_and_keeps_the_names(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    model = WithEncoder()
    names = set(model.state_dict())
    compile_networks(model)
    networks = [model.generator, model.generator_ema, model.discriminator, model.encoder]
    assert {id(network) for network in compiled} == {id(network) for network in networks}
    assert set(model.state_dict()) == names

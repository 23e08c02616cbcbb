"""The average of the generator, written out, and its counters in checkpoints."""

import pytest
import torch

from .test_spigan import toy
from .toy import batch, sgd, toy_model


def test_average_follows_the_generator():
    """The first update copies; later ones are decay · average + (1 - decay) · current."""
    model = toy_model(ema_decay=0.75)
    optimizers = sgd(model)
    expected = None
    for seed in range(4):
        torch.manual_seed(seed)
        model.train_step(batch(seed=seed), optimizers)
        current = model.generator.a.item()
        expected = current if expected is None else 0.75 * expected + 0.25 * current
        assert model.generator_ema.a.item() == pytest.approx(expected, rel=1e-6)
    assert not any(p.requires_grad for p in model.generator_ema.parameters())


def test_warm_up_of_the_average():
    model = toy_model(ema_decay=0.999, ema_warmup=True)
    with torch.no_grad():
        model.generator.a.fill_(0.0)
        model.update_ema()
        model.generator.a.fill_(1.0)
        model.update_ema()
    assert model.generator_ema.a.item() == pytest.approx(1 - 2 / 11)


def test_half_life_of_the_average_counts_images():
    """The average written out: 0.5^(batch / min(half-life, ramp-up · images seen before))."""
    model = toy(ema_half_life=100, ema_ramp_up=0.5)
    optimizers = sgd(model)
    expected, seen = None, 0
    for index, n in enumerate([16, 16, 16, 64, 160, 32]):
        model.train_step(batch(n, seed=index), optimizers)
        current = model.generator.a.item()
        decay = 0.0 if expected is None else 0.5 ** (n / min(100, 0.5 * seen))
        expected = current if expected is None else decay * expected + (1 - decay) * current
        seen += n
        assert model.generator_ema.a.item() == pytest.approx(expected, rel=1e-6)
    assert model.images_seen == seen


def test_counters_are_part_of_the_state():
    model = toy_model()
    for _ in range(3):
        model.train_step(batch(), sgd(model))
    other = toy_model()
    other.load_state_dict(model.state_dict())
    assert (other.iteration, other.ema.updates) == (3, 3)

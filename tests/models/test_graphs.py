"""Recorded drawing: when it records again, and, on a GPU, that it changes nothing."""

import pytest
import torch

from ddgan.diffusion.parametrization import PARAMETRIZATIONS
from ddgan.errors import UserError
from ddgan.models import DDPM
from ddgan.models.graphs import RecordedDraw
from ddgan.networks import MLPGenerator

from .test_spigan import image_model
from .toy import toy_model


class Tape:
    """Stands for a CUDA graph: reads the one input that it was recorded with."""

    made = 0

    def __init__(self, function, example):
        Tape.made += 1
        self.function, self.input = function, example.clone()

    def __call__(self, x):
        self.input.copy_(x)
        return self.function(self.input).clone()


@pytest.fixture
def tape(monkeypatch):
    monkeypatch.setattr(Tape, "made", 0)
    return Tape


def test_samples_of_a_recording_equal_those_without(tape):
    model = toy_model()
    draw = RecordedDraw(model, tape)
    expected = model.sample(12, seed=3, batch_size=4)
    assert torch.equal(model.sample(12, seed=3, batch_size=4, draw=draw), expected)
    assert tape.made == 1
    with torch.no_grad():
        model.generator_ema.a.mul_(2)  # in place, as the average is updated
    changed = model.sample(12, seed=3, batch_size=4, draw=draw)
    assert not torch.equal(changed, expected)
    assert tape.made == 1


def test_it_records_again_for_another_seed_size_generator_or_precision(tape):
    model = toy_model()
    draw = RecordedDraw(model, tape)
    for made, changed in enumerate(({}, {"seed": 4}, {"n": 3}, {"use_ema": False}), start=1):
        for _ in range(2):
            model.sample(**({"n": 4, "draw": draw} | changed))
        assert tape.made == made
    with torch.autocast("cpu", torch.bfloat16):
        model.sample(4, draw=draw)
    assert tape.made == 5
    model.generator_ema.a = torch.nn.Parameter(torch.tensor(0.7))  # the weight moves
    model.sample(4, draw=draw)
    assert tape.made == 6


def ddpm():
    network = MLPGenerator(40, latent_dim=0, hidden_dim=16)
    return DDPM(network, {"num_steps": 40}, data_preprocessor={"type": "PointPreprocessor"})


@pytest.mark.parametrize(
    ("build", "change"),
    [
        (ddpm, lambda m: m.set_sampler("ddim", 5)),
        (ddpm, lambda m: m.set_sampler("ddim", 40, eta=0.5)),
        (ddpm, lambda m: setattr(m, "clip", True)),
        (image_model, lambda m: setattr(m, "truncation", 0.5)),
        (image_model, lambda m: setattr(m.generator_ema.mapping, "solver", "midpoint")),
        (image_model, lambda m: setattr(m.path, "prior_std", 2.0)),
        (toy_model, lambda m: setattr(m, "parametrization", PARAMETRIZATIONS["direct"])),
    ],
)
def test_no_stale_setting_is_replayed(tape, build, change):
    model = build()
    draw = RecordedDraw(model, tape)
    for _ in range(2):
        model.sample(2, draw=draw)
    assert tape.made == 1
    change(model)
    model.sample(2, draw=draw)
    assert tape.made == 2


def test_a_recording_that_failed_is_not_replayed(tape):
    broken = False

    def record(function, example):
        if broken:
            raise torch.cuda.OutOfMemoryError("no memory")
        return tape(function, example)

    model = toy_model()
    draw = RecordedDraw(model, record)
    expected = model.sample(4, draw=draw)
    broken = True
    with pytest.raises(UserError, match="a batch of 4 does not fit"):
        model.sample(4, seed=1, draw=draw)
    broken = False
    assert torch.equal(model.sample(4, draw=draw), expected)
    assert tape.made == 2


def test_a_graph_needs_a_gpu():
    with pytest.raises(ValueError, match="need a model on a GPU; this one is on cpu"):
        RecordedDraw(toy_model())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_replayed_samples_equal_eager_ones_on_a_gpu(dtype):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = toy_model().cuda()
    draw = RecordedDraw(model)
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        for seed in (0, 1):
            eager = model.sample(10, seed=seed, batch_size=4)
            graph = model.sample(10, seed=seed, batch_size=4, draw=draw)
            torch.testing.assert_close(graph, eager, rtol=1e-5, atol=1e-5)

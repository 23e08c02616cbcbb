"""Recording of sampling: when a recording is made anew, and, on a GPU, that it changes nothing."""

import copy

import pytest
import torch

from ddgan.models.graphs import LastRecording

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
def recording(monkeypatch):
    monkeypatch.setattr(Tape, "made", 0)
    return LastRecording(Tape)


def test_a_recording_is_used_until_its_key_or_its_shape_changes(recording):
    x = torch.arange(4.0)
    for key, value, made in (("a", x, 1), ("a", x + 1, 1), ("b", x, 2), ("b", x[:3], 3)):
        torch.testing.assert_close(recording(key, lambda v: 2 * v, value), 2 * value)
        assert Tape.made == made


def test_a_recording_that_failed_is_not_replayed():
    x, broken = torch.arange(4.0), [False]

    def double(v):
        return 2 * v

    def record(function, example):
        if broken[0]:
            raise torch.cuda.OutOfMemoryError("no memory")
        return Tape(function, example)

    recording = LastRecording(record)
    recording("a", double, x)
    broken[0] = True
    with pytest.raises(torch.cuda.OutOfMemoryError):
        recording("b", double, x)
    broken[0] = False
    assert torch.equal(recording("a", double, x), 2 * x)
    # Nor is it part of a copy, whose weights lie elsewhere.
    made = Tape.made
    assert torch.equal(copy.deepcopy(recording)("a", lambda v: 3 * v, x), 3 * x)
    assert Tape.made == made + 1


def test_samples_of_a_recording_equal_those_without(recording, monkeypatch):
    model = toy_model()
    expected = model.sample(12, seed=3, batch_size=4)
    model._recording = recording
    # The property says where the weights are; the toy stays on the CPU.
    monkeypatch.setattr(type(model), "device", property(lambda self: _Cuda()))
    monkeypatch.setattr(torch, "arange", _arange_on_cpu(torch.arange))
    out = model.sample(12, seed=3, batch_size=4, cuda_graph=True)
    assert torch.equal(out, expected)
    assert Tape.made == 1
    with torch.no_grad():
        model.generator_ema.a.mul_(2)  # in place, as the average is updated
    changed = model.sample(12, seed=3, batch_size=4, cuda_graph=True)
    assert not torch.equal(changed, expected)
    assert Tape.made == 1
    model.sample(4, seed=4, cuda_graph=True)
    model.sample(4, seed=4, cuda_graph=True, use_ema=False)
    assert Tape.made == 3
    model.sampling_options = "another truncation"
    model.sample(4, seed=4, cuda_graph=True, use_ema=False)
    assert Tape.made == 4


class _Cuda:
    type = "cuda"


def _arange_on_cpu(arange):
    def on_cpu(*args, device=None, **kwargs):
        return arange(*args, **kwargs)

    return on_cpu


def test_a_graph_needs_a_gpu():
    with pytest.raises(ValueError, match="cuda_graph needs a model on a GPU; this one is on cpu"):
        toy_model().sample(2, cuda_graph=True)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_replayed_samples_equal_eager_ones_on_a_gpu(dtype):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = toy_model().cuda()
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        for seed in (0, 1):
            eager = model.sample(10, seed=seed, batch_size=4)
            graph = model.sample(10, seed=seed, batch_size=4, cuda_graph=True)
            torch.testing.assert_close(graph, eager, rtol=1e-5, atol=1e-5)

"""The pipeline of adaptive augmentation, and the control of its probability."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ddgan.models import augment as module
from ddgan.models.augment import AdaptiveAugmentation


class Normals:
    """The one method of StepRandom that augmentation calls."""

    def __init__(self, n, seed=0):
        self.n = n
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape):
        return torch.randn((self.n, *shape), generator=self.generator)


def images(n=4, channels=3, size=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, channels, size, size, generator=generator, dtype=dtype) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probability_zero_is_exactly_the_identity(channels, dtype):
    x = images(4, channels).to(dtype)
    for pipeline in ("bgc", "bgcfnx"):
        assert torch.equal(AdaptiveAugmentation(pipeline)(x, Normals(4)), x)


@pytest.mark.parametrize("pipeline", ["b", "g", "c", "bgc", "f", "n", "x", "bgcfnx"])
def test_images_that_nothing_was_drawn_for_stay_and_others_do_not(pipeline):
    augment = AdaptiveAugmentation(pipeline, probability=0.1)
    x = images(60)
    out = augment(x, Normals(60))
    same = (out == x).flatten(1).all(1)
    assert 5 < same.sum() < 58
    assert torch.equal(out, augment(x, Normals(60)))
    assert not torch.equal(out, augment(x, Normals(60, seed=1)))


def test_samples_are_transformed_each_by_its_own_draws():
    augment, x, random = AdaptiveAugmentation(probability=0.8), images(6), Normals(6)
    table = random.normal((28,))

    class Rows:
        def __init__(self, rows):
            self.rows = rows

        def normal(self, shape):
            return table[self.rows]

    together = augment(x, Rows([0, 1, 2, 3, 4, 5]))
    for rows in ([0], [4, 2]):
        torch.testing.assert_close(augment(x[rows], Rows(rows)), together[rows])


@pytest.mark.parametrize("pipeline", ["bgc", "fnx"])
def test_the_pipeline_has_first_and_second_derivatives(pipeline):
    augment = AdaptiveAugmentation(pipeline, probability=1.0)
    x = images(2, size=4, dtype=torch.float64).requires_grad_()
    weight = images(2, size=4, dtype=torch.float64)

    def function(x):
        return (augment(x, Normals(2)).pow(2) * weight).flatten(1).sum(1)

    assert gradcheck(function, (x,))
    assert gradgradcheck(function, (x,))


def test_arguments_and_images_are_checked():
    with pytest.raises(ValueError, match="pipeline is 'bgy'"):
        AdaptiveAugmentation("bgy")
    for options in ({"probability": 1.5}, {"interval": 0}, {"kimg": 0}):
        with pytest.raises(ValueError, match="expected a probability"):
            AdaptiveAugmentation(**options)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 8, 4\); expected square"):
        AdaptiveAugmentation()(images(2)[..., :4], Normals(2))
    with pytest.raises(ValueError, match="2 channels; expected 1 or 3"):
        AdaptiveAugmentation()(images(2, channels=2), Normals(2))
    AdaptiveAugmentation("bg")(images(2, channels=2), Normals(2))


def test_p_rises_with_overfitting_and_falls_without_it():
    augment = AdaptiveAugmentation(probability=0.5, interval=2, kimg=1)
    # Nine of ten positive: the mean sign is 0.8; with six more negative ones it is 0.125.
    logits = torch.ones(10, 1)
    logits[0] = -3
    augment.update(logits)
    assert augment.p.item() == 0.5
    augment.update(logits)
    assert augment.p.item() == pytest.approx(0.5 + 20 / 1000)
    for _ in range(2):
        augment.update(torch.cat([logits, -torch.ones(6, 1)]))
    assert augment.p.item() == pytest.approx(0.52 - 32 / 1000)


def test_p_depends_on_all_batches_of_the_interval():
    augment = AdaptiveAugmentation(probability=0.5, interval=2, kimg=1)
    augment.update(torch.ones(30, 1))
    augment.update(-torch.ones(2, 1))
    assert augment.p.item() == pytest.approx(0.5 + 32 / 1000)


def test_processes_count_together(monkeypatch):
    """As if another process had 30 positive logits."""
    monkeypatch.setattr(module, "all_reduce", lambda batch: batch.add_(torch.tensor([30.0, 30.0])))
    augment = AdaptiveAugmentation(probability=0.5, interval=1, kimg=1)
    augment.update(-torch.ones(2, 1))
    assert augment.p.item() == pytest.approx(0.5 + 32 / 1000)


@pytest.mark.parametrize(("sign", "limit"), [(1, 1.0), (-1, 0.0)])
def test_p_stays_a_probability(sign, limit):
    augment = AdaptiveAugmentation(probability=0.5, interval=1, kimg=0.01)
    for _ in range(4):
        augment.update(sign * torch.ones(4, 1))
    assert augment.p.item() == limit


def test_p_is_fixed_without_a_target():
    augment = AdaptiveAugmentation(probability=0.25, target=None, interval=1)
    augment.update(torch.ones(4, 1))
    assert augment.p.item() == 0.25


def test_control_resumes_in_the_middle_of_an_interval():
    def run(augment, batches):
        for i in batches:
            augment.update(torch.ones(4, 1) * (1 if i % 5 else -1))
        return augment

    whole = run(AdaptiveAugmentation(probability=0.5, interval=3, kimg=1), range(10))
    first = run(AdaptiveAugmentation(probability=0.5, interval=3, kimg=1), range(4))
    resumed = AdaptiveAugmentation(interval=3, kimg=1)
    resumed.load_state_dict(first.state_dict())
    assert torch.equal(run(resumed, range(4, 10)).p, whole.p)
    assert whole.p != 0.5

import math

import pytest
import torch

from ddgan.models.losses import mean_per_step, non_saturating_loss, r1_penalty


def test_non_saturating_loss_is_the_logarithm_of_the_sigmoid():
    logits = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    p = torch.sigmoid(logits)
    torch.testing.assert_close(non_saturating_loss(logits, real=True), -p.log())
    torch.testing.assert_close(non_saturating_loss(logits, real=False), -(1 - p).log())
    assert non_saturating_loss(torch.zeros(1), real=True).item() == pytest.approx(math.log(2))
    # No overflow where the sigmoid is 0.
    assert non_saturating_loss(torch.tensor([-1000.0]), real=True).item() == 1000


def test_r1_of_a_quadratic():
    """For D(x) = w x² the gradient is 2 w x: R1 = mean Σ 4 w² x², dR1/dw = mean Σ 8 w x²."""
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64).requires_grad_()
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    logits = (w * x**2).flatten(1).sum(1, keepdim=True)
    r1 = r1_penalty(logits, x)
    expected = (4 * 0.49 * x.detach() ** 2).flatten(1).sum(1).mean()
    assert r1.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(r1, w)
    assert gradient.item() == pytest.approx(2 * expected.item() / 0.7, rel=1e-6)


def test_mean_per_step():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    means = mean_per_step(values, torch.tensor([1, 3, 3, 4]), 4)
    assert means[[0, 2, 3]].tolist() == [1.0, 2.5, 4.0]
    assert means[1].isnan()

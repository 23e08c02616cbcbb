"""Losses and regularizers against closed forms."""

import math

import pytest
import torch
from torch.autograd.functional import jacobian

from ddgan.models.losses import (
    PathLengthPenalty,
    gradient_penalty,
    logistic_d_loss,
    logistic_g_loss,
    mean_per_step,
    path_lengths,
    r1_penalty,
)
from ddgan.networks import StyleGAN2Generator


def test_logistic_losses_are_logarithms_of_the_sigmoid():
    real, fake = torch.tensor([[-3.0, 0.0, 2.0], [1.0, -2.0, 0.5]], dtype=torch.float64)
    expected = -torch.sigmoid(real).log() - (1 - torch.sigmoid(fake)).log()
    torch.testing.assert_close(logistic_d_loss(real, fake), expected)
    torch.testing.assert_close(logistic_g_loss(fake), -torch.sigmoid(fake).log())
    assert logistic_g_loss(torch.zeros(1)).item() == pytest.approx(math.log(2))
    # No overflow where the sigmoid is 0.
    assert logistic_g_loss(torch.tensor([-1000.0])).item() == 1000


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


def test_the_gradient_penalty_of_a_plane_is_known():
    x = torch.randn(5, 2, requires_grad=True)
    assert gradient_penalty(x @ torch.tensor([[3.0], [4.0]]), x).item() == pytest.approx(16.0)
    assert gradient_penalty(x @ torch.tensor([[0.6], [0.8]]), x).item() == pytest.approx(
        0, abs=1e-6
    )
    # Where the critic is flat the norm has no slope; training goes on.
    w = torch.zeros(2, 1, requires_grad=True)
    gradient_penalty(x @ w, x).backward()
    assert w.grad.isfinite().all()


def tiny():
    torch.manual_seed(0)
    network = StyleGAN2Generator(
        8, image_channels=1, latent_dim=3, w_dim=3, num_mapping_layers=1, channel_base=16
    )
    return network.double(), torch.randn(3, 3, dtype=torch.float64)


def test_lengths_are_norms_of_the_explicit_jacobian():
    network, latent = tiny()
    images, ws = network(latent, noise="const", return_ws=True)
    noise = torch.randn_like(images)
    lengths = path_lengths(images, ws, noise)
    for i in range(3):
        j = jacobian(lambda w: network.synthesis(w[None], "const").flatten(), ws[i].detach())
        product = torch.einsum("p,pld->ld", noise[i].flatten() / math.sqrt(64), j)
        expected = product.square().sum(1).mean().sqrt()
        assert lengths[i].item() == pytest.approx(expected.item(), rel=1e-9)


def test_mean_square_is_the_frobenius_norm():
    """E ‖Jᵀy‖² = ‖J‖²_F / (H W) for normal noise."""
    generator = torch.Generator().manual_seed(0)
    j = torch.randn(16, 5, generator=generator, dtype=torch.float64)
    ws = torch.zeros(20_000, 1, 5, dtype=torch.float64, requires_grad=True)
    images = (ws[:, 0] @ j.T).reshape(-1, 1, 4, 4)
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    squares = path_lengths(images, ws, noise).detach().square()
    assert squares.mean().item() == pytest.approx(j.square().sum().item() / 16, rel=0.03)


def test_penalty_trains_the_generator():
    network, latent = tiny()
    images, ws = network(latent, noise="const", return_ws=True)
    lengths = path_lengths(images, ws, torch.ones_like(images))
    penalty = PathLengthPenalty(decay=0.1)
    loss = penalty(lengths)
    expected = (lengths.detach() - 0.1 * lengths.detach().mean()).square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    penalty(2 * lengths.detach())
    loss.backward()
    weight = network.synthesis.blocks[0].layer2.conv.weight
    assert weight.grad.abs().sum() > 0
    # The images' own bias does not move paths.
    moved = network.synthesis.to_image.bias.grad
    assert moved is None or not moved.any()


def test_running_mean_follows_the_lengths_and_is_saved():
    penalty = PathLengthPenalty()
    for _ in range(3):
        penalty(torch.tensor([1.0, 3.0]))
    assert penalty.mean.item() == pytest.approx(2 * (1 - 0.99**3), rel=1e-5)
    restored = PathLengthPenalty()
    restored.load_state_dict(penalty.state_dict())
    assert torch.equal(restored.mean, penalty.mean)
    constant = PathLengthPenalty(decay=1.0)
    assert constant(torch.full((4,), 2.5)).item() == 0


@pytest.mark.parametrize("decay", [0, 1.5])
def test_decay_is_checked(decay):
    with pytest.raises(ValueError, match=f"decay is {decay}"):
        PathLengthPenalty(decay)

"""Forward-mode derivatives of whole networks, as consistency training takes them."""

from collections.abc import Callable

import pytest
import test_discriminator
import test_ncsnpp
import test_stylegan2_discriminator
import test_stylegan2_generator
import torch
from torch import Tensor, func
from torch.autograd import forward_ad

from ddgan import ops


def _ncsnpp(dtype: torch.dtype) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    network = test_ncsnpp.build().to(dtype)
    x_t, t, z = test_ncsnpp.inputs(network)
    return lambda x_t, z: network(x_t, t, z), (x_t.to(dtype), z.to(dtype))


def _discriminator(dtype: torch.dtype) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    network = test_discriminator.build().to(dtype)
    x_prev, t, x_t = test_discriminator.images(5, dtype=dtype)
    return lambda x_prev, x_t: network(x_prev, t, x_t), (x_prev, x_t)


def _stylegan2(dtype: torch.dtype) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    network = test_stylegan2_generator.generator().to(dtype)
    latents = test_stylegan2_generator.latents(2, dtype=dtype)
    return lambda z: network(z, noise="const"), (latents,)


def _stylegan2_discriminator(
    dtype: torch.dtype,
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    network = test_stylegan2_discriminator.discriminator(time_embedding_dim=8).to(dtype)
    t = torch.linspace(0.1, 0.9, 4)
    return lambda x: network(x, t), (test_stylegan2_discriminator.images(4, dtype),)


NETWORKS = pytest.mark.parametrize(
    "build", [_ncsnpp, _discriminator, _stylegan2, _stylegan2_discriminator]
)


def _directions(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(x.shape, generator=generator).to(x) for x in inputs)


@NETWORKS
def test_tangents_are_finite_differences(build) -> None:
    f, inputs = build(torch.float64)
    along = _directions(inputs)
    step = 1e-6
    ends = [
        f(*[x + sign * step * v for x, v in zip(inputs, along, strict=True)]) for sign in (1, -1)
    ]
    want = (ends[0] - ends[1]) / (2 * step)
    _, got = func.jvp(f, inputs, along)
    assert (got - want).norm() <= 1e-6 * want.norm()
    with torch.no_grad(), forward_ad.dual_level():
        y = f(*[forward_ad.make_dual(x, v) for x, v in zip(inputs, along, strict=True)])
        torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, got)


@NETWORKS
def test_single_precision_is_near_the_reference(build) -> None:
    f, inputs = build(torch.float32)
    along = _directions(inputs)
    _, got = func.jvp(f, inputs, along)
    with ops.backend("torch"):
        _, want = func.jvp(f, inputs, along)
    assert (got - want).norm() <= 1e-4 * want.norm()


@NETWORKS
def test_tangents_of_gradients_are_finite_differences(build) -> None:
    f, inputs = build(torch.float64)
    along = _directions(inputs)
    gradient = func.grad(lambda x: f(x, *inputs[1:]).square().sum())
    step = 1e-6
    ends = [gradient(inputs[0] + sign * step * along[0]) for sign in (1, -1)]
    want = (ends[0] - ends[1]) / (2 * step)
    _, got = func.jvp(gradient, inputs[:1], along[:1])
    assert (got - want).norm() <= 1e-6 * want.norm()


@NETWORKS
def test_a_loss_on_the_tangent_trains(build) -> None:
    """The gradient of a function of the tangent, and that of the value next to a fixed tangent."""
    f, inputs = build(torch.float64)
    along = _directions(inputs)

    def loss(x: Tensor) -> Tensor:
        value, tangent = func.jvp(f, (x, *inputs[1:]), along)
        return tangent.square().sum() + (value - tangent.detach()).square().sum()

    x = inputs[0].clone().requires_grad_()
    with ops.backend("torch"):
        (want,) = torch.autograd.grad(loss(x), x)
    (got,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(got, want)

"""Checks that every network has to pass."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


def assert_trains_every_parameter(network: nn.Module, loss: Tensor) -> None:
    """Every parameter gets a gradient that is finite and not zero."""
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def assert_slope(function: Callable[[], Tensor], parameter: Tensor) -> None:
    """The gradient agrees with finite differences along a random direction."""
    (gradient,) = torch.autograd.grad(function(), parameter)
    direction = torch.randn_like(parameter)
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            parameter += step * direction
        values.append(function().item())
    with torch.no_grad():
        parameter += 1e-6 * direction
    numeric = (values[0] - values[1]) / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def assert_compiles(network: nn.Module, *inputs: Tensor, **options: str) -> None:
    """``torch.compile`` finds one graph, which computes the same."""
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs, **options), network(*inputs, **options))


def assert_autocast_keeps_the_dtype(network: nn.Module, *inputs: Tensor) -> None:
    """Under autocast the result is rounded, but has the dtype of the input."""
    expected = network(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            out = network(*inputs)
        except RuntimeError as error:
            # PyTorch's attention in bfloat16, with ATEN_CPU_CAPABILITY below the processor's.
            if "only supported when avx512" not in str(error):
                raise
            pytest.skip(str(error).splitlines()[0])
    assert out.dtype == inputs[0].dtype
    assert (out - expected).norm() < 0.1 * expected.norm()


def squared_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """The sum of squared gradients of logits, differentiable once more."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.square().sum()

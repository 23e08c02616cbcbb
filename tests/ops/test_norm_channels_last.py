"""AdaGN in NHWC, where the CPU's vectors lie along the channels of many groups at once."""

import pytest
import torch

from ddgan import ops
from ddgan.ops.backend import kernels

pytestmark = pytest.mark.usefixtures("compiled_cpu")

# Channels that fill no vector, exactly one or some and a rest; blocks of pixels and a rest.
SHAPES = [
    ((2, 37, 3, 5), 37),  # groups of one channel
    ((2, 16, 1, 2), 4),
    ((3, 5, 7, 9), 1),
    ((2, 33, 12, 13), 11),
    ((1, 48, 17, 16), 12),
    ((2, 21), 7),  # one pixel
]


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


def _derivatives(x, scale, shift, groups, activation):
    """Return the output, the gradients and the gradients of a function of all these."""
    inputs = [t.detach().clone().requires_grad_() for t in (x, scale, shift)]
    y = ops.ada_group_norm(inputs[0], groups, *inputs[1:], 1e-3, activation)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    cotangent.requires_grad_()
    first = torch.autograd.grad(y, inputs, cotangent, create_graph=True)
    results = [y, *first]
    loss = 0
    for r in results:
        weight = torch.linspace(1, 2, r.numel(), dtype=torch.float64).reshape(r.shape)
        loss = loss + (weight * r.double().square()).sum()
    return [*results, *torch.autograd.grad(loss, [cotangent, *inputs])]


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_value_and_derivatives_up_to_the_second(shape, groups, activation, offset):
    torch.manual_seed(0)
    x = _last(torch.randn(shape) + offset)
    rows = [torch.randn(shape[:2]) for _ in range(2)]
    found = _derivatives(x, *rows, groups, activation)
    with ops.backend("torch"):
        wanted = _derivatives(x.double(), *(r.double() for r in rows), groups, activation)
    # Against an offset of a thousand deviations the inputs themselves have four digits left.
    limit = 3e-6 if offset == 0 else 5e-3
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        assert (got.double() - want).abs().max() <= limit * max(1, want.abs().max())


@pytest.mark.parametrize("image", ["noise", "step"])
def test_statistics_lose_nothing_to_an_offset(image):
    torch.manual_seed(0)
    x = torch.randn(2, 12, 24, 24) + 1e4
    if image == "step":  # blocks of pixels whose means lie far apart
        x[:, :, :9] += 1e3
    x = _last(x)
    one, zero = torch.ones(1, 12), torch.zeros(1, 12)
    _, mean, rstd = kernels.ada_group_norm(x, one, zero, 3, 1e-6, False)
    grouped = x.double().reshape(2, 3, -1)
    torch.testing.assert_close(mean.double(), grouped.mean(2), rtol=1e-7, atol=0)
    variance = grouped.var(2, correction=0)
    torch.testing.assert_close(rstd.double(), (variance + 1e-6).rsqrt(), rtol=1e-6, atol=0)


def test_empty_batch():
    x = torch.zeros(2, 6, 4, 5).to(memory_format=torch.channels_last)[:0]
    results = _derivatives(x, torch.zeros(0, 6), torch.zeros(0, 6), 2, "silu")
    assert [tuple(r.shape) for r in results[:4]] == [(0, 6, 4, 5), (0, 6, 4, 5), (0, 6), (0, 6)]


def test_threads_that_share_a_sample_change_no_bit():
    torch.manual_seed(0)
    x = _last(torch.randn(1, 45, 64, 64))
    rows = [torch.randn(1, 45) for _ in range(2)]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(_derivatives(x, *rows, 15, "silu"))
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)

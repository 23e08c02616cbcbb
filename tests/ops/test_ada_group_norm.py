"""AdaGN in NHWC, where the CPU's vectors lie along the channels of many groups at once."""

import pytest
import torch
from ops_cases import assert_like_reference, derivatives, with_threads

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


def _norm(groups: int, activation: str | None):
    return lambda x, a, b: ops.ada_group_norm(x, groups, a, b, 1e-3, activation)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_value_and_derivatives_up_to_the_second(shape, groups, activation, offset):
    torch.manual_seed(0)
    x = _last(torch.randn(shape) + offset)
    rows = [torch.randn(shape[:2]) for _ in range(2)]
    # Against an offset of a thousand deviations the inputs themselves have four digits left.
    limit = 3e-6 if offset == 0 else 5e-3
    assert_like_reference(_norm(groups, activation), [x, *rows], limit)


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


def test_threads_that_share_a_sample_change_no_bit():
    torch.manual_seed(0)
    tensors = [_last(torch.randn(1, 45, 64, 64)), *torch.randn(2, 1, 45)]
    tensors = [t.requires_grad_() for t in tensors]
    one, three = [derivatives(_norm(15, "silu"), tensors) for _ in with_threads(1, 3)]
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))

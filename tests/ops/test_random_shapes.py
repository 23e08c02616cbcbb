"""Random shapes and parameters: the compiled operators against the float64 reference."""

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ops_cases import assert_like_reference

from ddgan import ops

settings.register_profile("ops", deadline=None, max_examples=40, derandomize=True)
pytestmark = pytest.mark.usefixtures("compiled_cpu")
SETTINGS = settings(
    settings.get_profile("ops"), suppress_health_check=[HealthCheck.function_scoped_fixture]
)

_assert_close = partial(assert_like_reference, order=1)
factor = st.integers(1, 8)
pad = st.integers(-3, 9)
seed = st.integers(0, 2**16)


@SETTINGS
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 21), st.integers(1, 70)),
    taps=st.tuples(st.integers(1, 32), st.integers(1, 32)),
    factors=st.tuples(factor, factor, factor, factor),
    pads=st.tuples(pad, pad, pad, pad),
    separable=st.booleans(),
    last=st.booleans(),
    seed=seed,
)
def test_upfirdn2d(size, taps, factors, pads, separable, last, seed) -> None:
    up, down = factors[:2], factors[2:]
    shape = (taps[0],) * 2 if separable else taps
    assume(size[3] * up[0] + pads[0] + pads[1] >= shape[1])
    assume(size[2] * up[1] + pads[2] + pads[3] >= shape[0])
    # torch's own padding refuses to crop an axis away on one side.
    assume(all(-p < size[3] * up[0] for p in pads[:2]))
    assume(all(-p < size[2] * up[1] for p in pads[2:]))
    torch.manual_seed(seed)
    x = torch.randn(size)
    x = x.to(memory_format=torch.channels_last) if last else x
    kernel = torch.randn(taps[0]).tolist() if separable else torch.randn(taps)
    _assert_close(lambda x: ops.upfirdn2d(x, kernel, up, down, pads, 0.7), [x], 1e-4)


@SETTINGS
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 40), st.integers(1, 80)),
    up=st.booleans(),
    last=st.booleans(),
    seed=seed,
)
def test_by_two(size, up, last, seed) -> None:
    assume(up or min(size[2:]) >= 2)
    torch.manual_seed(seed)
    x = torch.randn(size)
    x = x.to(memory_format=torch.channels_last) if last else x
    _assert_close(ops.upsample2d if up else ops.downsample2d, [x], 1e-5)


@SETTINGS
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 4),
    width=st.integers(1, 20),
    size=st.lists(st.integers(1, 50), min_size=0, max_size=2),
    shared=st.booleans(),
    silu=st.booleans(),
    last=st.booleans(),
    offset=st.sampled_from((0.0, 100.0)),
    seed=seed,
)
def test_ada_group_norm(batch, groups, width, size, shared, silu, last, offset, seed) -> None:
    c = groups * width
    assume(width * torch.Size(size).numel() > 3)  # otherwise 1 / sqrt(eps) amplifies rounding
    torch.manual_seed(seed)
    x = torch.randn(batch, c, *size) + offset
    x = x.to(memory_format=torch.channels_last) if last and x.ndim == 4 else x
    rows = [torch.randn(1 if shared else batch, c) for _ in range(2)]
    activation = "silu" if silu else None
    _assert_close(
        lambda x, a, b: ops.ada_group_norm(x, groups, a, b, 1e-3, activation),
        [x, *rows],
        1e-5 if offset == 0 else 2e-3,
    )


@SETTINGS
@given(
    size=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    bias=st.booleans(),
    slope=st.floats(-2, 2),
    gain=st.floats(-3, 3),
    last=st.booleans(),
    seed=seed,
)
def test_bias_leaky_relu(size, bias, slope, gain, last, seed) -> None:
    torch.manual_seed(seed)
    x = torch.randn(size)
    x = x.to(memory_format=torch.channels_last) if last and x.ndim == 4 else x
    tensors = [x, torch.randn(size[1])] if bias else [x]

    def function(x, bias=None):
        return ops.fused_bias_leaky_relu(x, bias, slope, gain)

    _assert_close(function, tensors, 1e-5)

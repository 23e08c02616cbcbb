"""The bits that bias + leaky ReLU keeps for its backward."""

import pytest
import torch
from ops_cases import assert_like_reference

from ddgan import ops
from ddgan.ops.backend import kernels

pytestmark = pytest.mark.usefixtures("compiled_cpu")

LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def _shape(inner: int, layout: str) -> tuple[int, ...]:
    """A shape whose rows of bits have ``inner`` elements."""
    return {"nchw": (3, 5, inner, 1), "nhwc": (2, inner, 3, 7), "rows": (11, inner)}[layout]


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "rows"])
@pytest.mark.parametrize("inner", [1, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 130])
@pytest.mark.parametrize(("slope", "gain", "clamp"), [(0.2, 1.5, None), (-0.5, -1.0, 0.75)])
def test_rows_that_fill_no_bytes_or_vectors(inner, layout, dtype, slope, gain, clamp) -> None:
    generator = torch.Generator().manual_seed(inner)
    shape = _shape(inner, layout)

    def randn(*size: int) -> torch.Tensor:
        # Multiples of 1/8: exact in every dtype, and many lie on the kink and on the clamp.
        t = torch.randint(-16, 17, size, generator=generator) / 8
        return t.to(memory_format=torch.channels_last) if layout == "nhwc" and len(size) > 1 else t

    x = randn(*shape).to(dtype)
    bias = randn(shape[1]).to(torch.promote_types(dtype, torch.float32))

    def function(x, bias):
        return ops.fused_bias_leaky_relu(x, bias, slope, gain, clamp)

    assert_like_reference(function, [x, bias], LIMITS[dtype], order=1)


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_only_bits_are_kept(clamp) -> None:
    x = torch.randn(4, 6, 5, 5, requires_grad=True)
    bias = torch.randn(6, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.fused_bias_leaky_relu(x, bias, clamp=clamp)
    (mask,) = kept
    assert mask.dtype == torch.uint8
    assert mask.shape == (1 if clamp is None else 2, 24, 4)


def test_nothing_is_written_where_no_gradient_is_needed(monkeypatch) -> None:
    asked = []
    real = kernels.bias_leaky_relu
    monkeypatch.setattr(
        kernels, "bias_leaky_relu", lambda *a: asked.append(real(*a)[1].numel()) or real(*a)
    )
    x, bias = torch.randn(2, 3, 4, 4), torch.randn(3, requires_grad=True)
    ops.fused_bias_leaky_relu(x)
    with torch.no_grad():
        ops.fused_bias_leaky_relu(x, bias)
    ops.fused_bias_leaky_relu(x, bias)
    assert asked == [0, 0, 2 * 3 * 2]


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_the_output_may_change_after_the_operation(last: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, 7)
    x = (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()
    bias = torch.randn(5, requires_grad=True)
    (want,) = torch.autograd.grad(3 * ops.fused_bias_leaky_relu(x, bias).sum(), x)
    (got,) = torch.autograd.grad(ops.fused_bias_leaky_relu(x, bias).mul_(3).sum(), x)
    assert torch.equal(got, want)


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_a_gradient_of_another_layout(last: bool) -> None:
    torch.manual_seed(0)
    x, cotangent = torch.randn(2, 5, 6, 7), torch.randn(2, 5, 6, 7)
    cotangent = cotangent if last else cotangent.to(memory_format=torch.channels_last)
    x = (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()
    (want,) = torch.autograd.grad(ops.fused_bias_leaky_relu(x), x, cotangent)
    assert want.stride() == x.stride()
    with ops.backend("torch"):
        (reference,) = torch.autograd.grad(ops.fused_bias_leaky_relu(x), x, cotangent)
    torch.testing.assert_close(want, reference)


@pytest.mark.parametrize("clamp", [None, 0.5, 0.0])
def test_nan_and_infinity_as_the_reference(any_backend, clamp) -> None:
    x = torch.tensor([[torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 0.25]], requires_grad=True)
    y = ops.fused_bias_leaky_relu(x, gain=2.0, clamp=clamp)
    (dx,) = torch.autograd.grad(y.sum(), x)
    limit = torch.inf if clamp is None else clamp
    want = torch.tensor([[0.4, 2, 0.4, 0.4, 0.4, 2]])
    if clamp is not None:
        want[0, :3] = 0
        want[0, 5] = 2 if clamp == 0.5 else 0
    assert y[0, 0].isnan()
    assert y[0, 1:3].tolist() == [limit, -limit]
    torch.testing.assert_close(dx, want)


def test_a_direct_call_without_the_mask_says_so() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="only with mask=True"):
        kernels.bias_leaky_relu(x, None, 0.2, 1.0, -1.0, False)


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: mask[:0],
        lambda mask: mask[:, :-1],
        lambda mask: mask.char(),
        lambda mask: mask.repeat(3, 1, 1),
        lambda mask: mask.transpose(1, 2).contiguous().transpose(1, 2),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(change) -> None:
    x = torch.randn(2, 3, 4, 5)
    _, mask = kernels.bias_leaky_relu(x, None, 0.2, 1.0, -1.0, True)
    with pytest.raises(RuntimeError, match="mask must be the one that bias_leaky_relu returned"):
        kernels.bias_leaky_relu_backward(x, change(mask), 0.2, 1.0, False, True)

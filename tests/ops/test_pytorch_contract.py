"""What PyTorch expects of an operator: opcheck, compile, autocast, layouts, empty batches."""

import pytest
import torch
from ops_cases import CASES, Case

from ddgan import ops
from ddgan.ops.backend import kernels

SOME = [case for case in CASES if case.name in ("upsample", "upfirdn_plane", "norm_silu", "bias")]


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_opcheck(compiled_cpu, last: bool) -> None:
    torch.manual_seed(0)

    def randn(*shape: int, grad: bool = True) -> torch.Tensor:
        t = torch.randn(shape)
        t = t.to(memory_format=torch.channels_last) if last and len(shape) == 4 else t
        return t.requires_grad_(grad)

    x, rows = (2, 4, 6, 3), (2, 4)
    fir = (2, 1, 1, 2, 2, 1, -1, 4, False, 1.5)
    opcheck = torch.library.opcheck
    opcheck(kernels.upfirdn2d, (randn(*x), [1.0, 2.0, 3.0], None, *fir))
    opcheck(kernels.upfirdn2d, (randn(*x), [], torch.randn(3, 2), *fir))
    opcheck(kernels.bias_leaky_relu, (randn(*x), randn(4), 0.2, 1.4, -1.0, True))
    opcheck(kernels.bias_leaky_relu, (randn(*x), None, 0.2, 1.4, 0.5, True))
    opcheck(kernels.bias_leaky_relu, (randn(*x, grad=False), None, 0.2, 1.4, 0.5, False))
    _, mask = kernels.bias_leaky_relu(randn(*x, grad=False), None, 0.2, 1.4, 0.5, True)
    opcheck(kernels.bias_leaky_relu_backward, (randn(*x), mask, 0.2, 1.4, last, True))
    opcheck(kernels.ada_group_norm, (randn(*x), randn(*rows), randn(*rows), 2, 1e-6, True))
    statistics = (torch.randn(2, 2), torch.rand(2, 2) + 0.5)
    tensors = (randn(*x), randn(*x), randn(*rows), randn(*rows), *statistics)
    opcheck(kernels.ada_group_norm_backward, (*tensors, 2, True))
    opcheck(
        kernels.ada_group_norm_second,
        (randn(*x), randn(*rows), None, *tensors, 2, True),
        test_utils=("test_schema", "test_faketensor"),
    )
    weight = randn(5, 4, 3, 3)
    opcheck(kernels.conv3x3, (randn(*x), weight, randn(5), False))
    opcheck(kernels.conv3x3, (randn(2, 5, 6, 3), weight, None, True))
    opcheck(kernels.conv3x3_weight, (randn(*x), randn(2, 5, 6, 3), True, False))
    opcheck(kernels.conv3x3_weight, (randn(*x), randn(2, 5, 6, 3), False, True))


CONV = Case("conv", ops.same_conv2d, ((2, 16, 16, 16), (16, 16, 3, 3), (16,)))


@pytest.mark.parametrize("case", [*SOME, CONV], ids=str)
def test_compiles_without_a_graph_break(compiled_cpu, case: Case) -> None:
    tensors = case.tensors(torch.float32)
    want = case.function(*tensors)
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    got = compiled(*tensors)
    assert torch.equal(got, want)
    cotangent = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad(got, tensors, cotangent),
        torch.autograd.grad(want, tensors, cotangent),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", SOME, ids=str)
def test_autocast_keeps_the_dtype_of_x(any_backend, case: Case) -> None:
    x, *rest = (t.detach() for t in case.tensors(torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        y = case.function(x.bfloat16(), *rest)
        full = case.function(x, *rest)
    assert y.dtype == torch.bfloat16
    assert full.dtype == torch.float32
    torch.testing.assert_close(y.float(), full, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("case", SOME, ids=str)
def test_parameters_of_another_dtype_get_their_own_gradients(any_backend, case: Case) -> None:
    tensors = case.tensors(torch.float32)
    x = tensors[0].detach().bfloat16().requires_grad_()
    case.function(x, *tensors[1:]).float().square().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert all(t.grad.dtype == torch.float32 for t in tensors[1:])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_channels_last_in_channels_last_out(compiled_cpu, case: Case) -> None:
    x, *rest = case.tensors(torch.float32, last=True)
    y = case.function(x, *rest)
    if x.ndim == 4 and not x.is_contiguous():
        assert y.is_contiguous(memory_format=torch.channels_last)
    else:
        assert y.is_contiguous()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_strided_views(any_backend, case: Case) -> None:
    x, *rest = (t.detach() for t in case.tensors(torch.float32))
    want = case.function(x, *rest)
    wide = torch.stack((x, torch.full_like(x, torch.nan)), -1)[..., 0]
    twice = [torch.cat((t, t), -1)[..., : t.shape[-1]] for t in rest]
    torch.testing.assert_close(case.function(wide, *twice), want)
    torch.testing.assert_close(case.function(x.transpose(-1, -2).contiguous().mT, *rest), want)
    shared = x[:1].expand_as(x)
    torch.testing.assert_close(case.function(shared, *rest), case.function(shared.clone(), *rest))


def _misaligned(t: torch.Tensor) -> torch.Tensor:
    """The same values and strides, one element after the beginning of a storage."""
    storage = torch.empty(t.numel() + 1, dtype=t.dtype)
    return storage.as_strided(t.shape, t.stride(), 1).copy_(t)


@pytest.mark.parametrize("case", [*CASES, CONV], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_storage_offset_of_one_element(compiled_cpu, case: Case, last: bool) -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        tensors = [t.detach() for t in case.tensors(dtype, last=last)]
        moved = [_misaligned(t) for t in tensors]
        results = []
        for inputs in (tensors, moved):
            inputs = [t.requires_grad_() for t in inputs]
            y = case.function(*inputs)
            cotangent = (
                torch.ones_like(y) if inputs[0] is tensors[0] else _misaligned(torch.ones_like(y))
            )
            results.append([y, *torch.autograd.grad(y, inputs, cotangent)])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("case", [c for c in CASES if len(c.shapes[0]) == 4], ids=str)
def test_channel_slices_of_channels_last(any_backend, case: Case) -> None:
    x, *rest = (t.detach() for t in case.tensors(torch.float32))
    both = torch.cat((x, x), 1).to(memory_format=torch.channels_last)
    torch.testing.assert_close(case.function(both[:, : x.shape[1]], *rest), case.function(x, *rest))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_empty_batches(any_backend, case: Case, last: bool) -> None:
    tensors = case.tensors(torch.float32, last=last)
    x, *rest = (t.detach().requires_grad_() for t in tensors)
    empty = x[:0]
    rest = [t[:0] if t.ndim > 1 and len(t) == len(x) else t for t in rest]
    y = case.function(empty, *rest)
    assert y.shape == (0, *case.function(*tensors).shape[1:])
    gradients = torch.autograd.grad(y.sum(), (x, *rest), allow_unused=True, create_graph=True)
    assert gradients[0].shape == x.shape
    assert all(g is None or not g.any() for g in gradients)


def test_third_derivative_of_the_norm_is_refused(compiled_cpu) -> None:
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    row = torch.ones(1, 2)
    y = ops.ada_group_norm(x, 1, row, row, activation="silu")
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="up to its second derivative"):
        torch.autograd.grad(h.sum(), x)

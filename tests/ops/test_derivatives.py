import pytest
import torch
from ops_cases import CASES, Case, with_dtypes
from torch.autograd import gradcheck, gradgradcheck

from ddgan import ops


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_first_and_second_derivatives(compiled_cpu, case: Case, last: bool) -> None:
    tensors = case.tensors(last=last)
    assert gradcheck(case.function, tensors)
    assert gradgradcheck(case.function, tensors)


def _derivatives(case: Case, dtype: torch.dtype, last: bool) -> list[torch.Tensor]:
    """Return the value, its gradients and the gradients of their squares."""
    tensors = case.tensors(dtype, last=last)
    y = case.function(*tensors)
    cotangent = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(dtype)
    first = torch.autograd.grad(y, tensors, cotangent.requires_grad_(), create_graph=True)
    penalty = sum(g.double().square().sum() for g in first)
    second = torch.autograd.grad(
        penalty, [cotangent, *tensors], allow_unused=True, materialize_grads=True
    )
    return [y, *first, *second]


LIMITS = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


@pytest.mark.parametrize(("case", "dtype"), with_dtypes(*LIMITS), ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_equals_the_float64_reference(compiled_cpu, case, dtype, last) -> None:
    got = _derivatives(case, dtype, last)
    with ops.backend("torch"):
        # The same rounded inputs, in float64.
        rounded = [t.detach().to(dtype).double() for t in case.tensors()]
        exact = Case(case.name, case.function, case.shapes)
        object.__setattr__(exact, "tensors", lambda *_, **__: [t.requires_grad_() for t in rounded])
        want = _derivatives(exact, torch.float64, last)
    for a, b in zip(got, want, strict=True):
        scale = max(1.0, b.abs().max().item())
        assert a.dtype == dtype
        assert (a.double() - b).abs().max().item() <= LIMITS[dtype] * scale


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_do_not_depend_on_threads(compiled_cpu, case: Case) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = _derivatives(case, torch.float32, False)
        torch.set_num_threads(2)
        two = _derivatives(case, torch.float32, False)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))

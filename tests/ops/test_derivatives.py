"""Values and derivatives of every operation, in every dtype and layout."""

import pytest
import torch
from ops_cases import CASES, Case, assert_like_reference, derivatives, with_dtypes, with_threads
from torch.autograd import gradcheck, gradgradcheck

LIMITS = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
LAYOUTS = pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])


@pytest.mark.parametrize("case", CASES, ids=str)
@LAYOUTS
def test_first_and_second_derivatives(compiled_cpu, case: Case, last: bool) -> None:
    tensors = case.tensors(last=last)
    assert gradcheck(case.function, tensors, check_forward_ad=True)
    assert gradgradcheck(case.function, tensors, check_fwd_over_rev=True)


@pytest.mark.parametrize(("case", "dtype"), with_dtypes(*LIMITS), ids=str)
@LAYOUTS
def test_equals_the_float64_reference(compiled_cpu, case, dtype, last) -> None:
    assert_like_reference(case.function, case.tensors(dtype, last=last), LIMITS[dtype])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_do_not_depend_on_threads(compiled_cpu, case: Case) -> None:
    tensors = case.tensors(torch.float32)
    one, two = [derivatives(case.function, tensors) for _ in with_threads(1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))

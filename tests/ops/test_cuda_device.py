"""The CUDA kernels on a real device: needs nothing but torch, pytest and the built project.

``DDGAN_CUDA=1 python setup.py build_ext --inplace && pytest tests/ops/test_cuda_device.py``, and
``compute-sanitizer --tool memcheck python -m pytest tests/ops/test_cuda_device.py -k small``.
"""

import pytest
import torch
from ops_cases import Case, assert_like_reference, norm_case, with_dtypes

from ddgan import ops
from ddgan.ops.backend import built_for, kernels

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
if not built_for("cuda"):
    pytest.skip("the operators are built without CUDA", allow_module_level=True)

pytestmark = pytest.mark.gpu
LIMITS = {torch.float64: 1e-9, torch.float32: 5e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def _compare(case: Case, dtype: torch.dtype, last: bool) -> None:
    assert_like_reference(
        case.function, case.tensors(dtype, last=last), LIMITS[dtype], device="cuda"
    )


@pytest.mark.parametrize(("case", "dtype"), with_dtypes(*LIMITS), ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_small_against_float64(case: Case, dtype: torch.dtype, last: bool) -> None:
    _compare(case, dtype, last)


LARGER = [
    Case("large_up", ops.upsample2d, ((3, 32, 48, 40),)),
    Case("large_down", ops.downsample2d, ((3, 32, 48, 64),)),
    Case("large_down_odd", ops.downsample2d, ((2, 5, 47, 33),)),
    Case("large_bias", ops.fused_bias_leaky_relu, ((5, 48, 64, 40), (48,))),
    norm_case("large_norm_in_one_block", 8, 4, 64, 32, 32),
    norm_case("large_norm_in_a_team", 4, 2, 32, 128, 96),
    norm_case("large_norm_beyond_the_registers", 1, 1, 24, 1024, 512),
    norm_case("large_norm_of_many_channels", 1, 2, 2064, 3, 5),
]


@pytest.mark.parametrize("case", LARGER, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_larger_against_float64(case: Case, dtype: torch.dtype, last: bool) -> None:
    # Sums over many rounded elements: compare the value and the first derivatives.
    tensors = case.tensors(dtype, last=last)
    results = []
    for name, cast in (("torch", torch.Tensor.double), ("cuda", lambda t: t)):
        with ops.backend(name):
            ins = [cast(t.detach().cuda()).requires_grad_() for t in tensors]
            y = case.function(*ins)
            results.append([y, *torch.autograd.grad(y, ins, torch.ones_like(y))])
    for want, got in zip(*results, strict=True):
        error = (got.double() - want).abs().max().item()
        assert error <= LIMITS[dtype] * max(1.0, want.abs().max().item())


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("size", [16, 96])
def test_a_mean_far_from_zero_keeps_its_accuracy(size: int, last: bool) -> None:
    case = norm_case("far", 2, 2, 16, size, size)
    x, scale, shift = (t.detach() for t in case.tensors(torch.float32, "cuda", last))
    x += 300
    with ops.backend("torch"):
        want = case.function(x.double(), scale.double(), shift.double())
    assert (case.function(x, scale, shift) - want).abs().max().item() < 2e-4


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
def test_second_derivatives_of_a_team(last: bool) -> None:
    _compare(norm_case("team", 2, 1, 64, 48, 48), torch.float32, last)


@pytest.mark.parametrize("case", LARGER, ids=str)
def test_runs_repeat_to_the_last_bit(case: Case) -> None:
    with ops.backend("cuda"):
        runs = []
        for _ in range(2):
            ins = [t.detach().cuda().requires_grad_() for t in case.tensors(torch.float32)]
            y = case.function(*ins)
            runs.append([y, *torch.autograd.grad(y.square().sum(), ins)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_teams_of_blocks_on_several_streams_do_not_hang() -> None:
    x, row = torch.randn(8, 64, 128, 128, device="cuda"), torch.randn(8, 64, device="cuda")
    with ops.backend("cuda"):
        want = ops.ada_group_norm(x, 4, row, row, activation="silu")
        streams = [torch.cuda.Stream() for _ in range(3)]
        torch.cuda.synchronize()
        results = []
        for turn in range(60):
            with torch.cuda.stream(streams[turn % 3]):
                results.append(ops.ada_group_norm(x, 4, row, row, activation="silu"))
        torch.cuda.synchronize()
    assert all(torch.equal(got, want) for got in results)


def test_indices_beyond_32_bits() -> None:
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free device memory")
    x = torch.zeros(1, 1, 2**16, 2**15 + 64, dtype=torch.float16, device="cuda")
    x[..., -1, -1] = 1.0
    bias = torch.ones(1, device="cuda")
    assert ops.fused_bias_leaky_relu(x, bias, gain=1.0)[0, 0, -1, -1].item() == 2.0
    assert ops.downsample2d(x)[0, 0, -1, -1].item() == pytest.approx((3 / 8) ** 2, rel=1e-3)
    row = torch.ones(1, 1, device="cuda")
    assert ops.ada_group_norm(x, 1, row, 0 * row, eps=1.0)[0, 0, -1, -1].item() == pytest.approx(
        1.0
    )


def test_other_streams_graphs_and_autocast() -> None:
    # Groups of 128 KB, for which blocks wait for each other.
    x = torch.randn(4, 8, 96, 96, device="cuda")
    row = torch.randn(4, 8, device="cuda")

    def function(x: torch.Tensor) -> torch.Tensor:
        y = ops.upsample2d(ops.downsample2d(x))
        return ops.ada_group_norm(ops.fused_bias_leaky_relu(y, row[0]), 2, row, row)

    want = function(x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = function(x)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(got, want)
    graph = torch.cuda.CUDAGraph()
    static = x.clone()
    with torch.cuda.graph(graph):
        captured = function(static)
    static.copy_(2 * x)
    graph.replay()
    assert torch.equal(captured, function(2 * x))
    with torch.autocast("cuda", torch.bfloat16):
        assert function(x.bfloat16()).dtype == torch.bfloat16


def test_opcheck_and_compile() -> None:
    x = torch.randn(2, 4, 6, 8, device="cuda", requires_grad=True)
    row = torch.randn(2, 4, device="cuda", requires_grad=True)
    torch.library.opcheck(kernels.ada_group_norm, (x, row, row, 2, 1e-6, True))
    torch.library.opcheck(kernels.bias_leaky_relu, (x, None, 0.2, 1.4, -1.0, True))

    def function(x: torch.Tensor) -> torch.Tensor:
        return ops.ada_group_norm(ops.upsample2d(x), 2, row, row, activation="silu")

    compiled = torch.compile(function, fullgraph=True)
    torch.testing.assert_close(compiled(x), function(x))
    got, want = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled, function))
    torch.testing.assert_close(got, want)

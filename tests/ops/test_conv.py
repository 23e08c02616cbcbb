"""Winograd's 3 x 3 convolutions against PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops_cases import with_threads
from torch import Tensor

from ddgan import ops
from ddgan.ops.backend import kernels

pytestmark = pytest.mark.usefixtures("vectorized_cpu")
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
# Half an image, several images and several rows to a block; channels that leave lanes empty.
SHAPES = (
    (1, 17, 33, 20, 21),
    (7, 16, 16, 8, 8),
    (2, 50, 100, 16, 15),
    (1, 20, 24, 10, 260),
    (30, 40, 16, 4, 4),
)


def _tensors(n: int, c: int, k: int, h: int, w: int, layout: torch.memory_format) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n + c + k)
    x, weight, bias = (
        torch.randn(shape, generator=generator) for shape in ((n, c, h, w), (k, c, 3, 3), (k,))
    )
    weight = weight.div(3 * c**0.5)
    return [t.requires_grad_() for t in (x.contiguous(memory_format=layout), weight, bias)]


def _double(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().double().requires_grad_() for t in tensors]


def _derivatives(tensors: list[Tensor]) -> list[Tensor]:
    """The result, its gradients and the gradients of their squares."""
    y = ops.same_conv2d(*tensors)
    first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), tensors)
    return [y, *first, *second]


def _assert_near(got: Tensor, want: Tensor, limit: float = 2e-6) -> None:
    """Compare norms of differences: single results may cancel to almost nothing."""
    assert got.shape == want.shape
    assert (got.double() - want).norm() <= limit * want.norm()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_result_and_derivatives(shape: tuple[int, ...], layout: str) -> None:
    tensors = _tensors(*shape, LAYOUTS[layout])
    got = _derivatives(tensors)
    assert got[0].is_contiguous(memory_format=LAYOUTS[layout])
    for a, b in zip(got, _derivatives(_double(tensors)), strict=True):
        _assert_near(a, b)


@settings(
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    size=st.tuples(*(st.integers(1, n) for n in (9, 70, 130, 19, 70))),
    layouts=st.tuples(*[st.sampled_from(list(LAYOUTS.values()))] * 3),
    transposed=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_operators_of_any_size(size, layouts, transposed, seed) -> None:
    torch.manual_seed(seed)
    n, c, k, h, w = size
    x, grad = torch.randn(n, c, h, w), torch.randn(n, k, h, w)
    weight, bias = torch.randn(*((c, k) if transposed else (k, c)), 3, 3), torch.randn(k)
    x, grad, weight = (
        t.contiguous(memory_format=layout)
        for t, layout in zip((x, grad, weight), layouts, strict=True)
    )
    reference = F.conv_transpose2d if transposed else F.conv2d
    want = reference(*(t.double() for t in (x, weight, bias)), padding=1)
    _assert_near(kernels.conv3x3(x, weight, bias, transposed), want)
    shape, last = (k, c, 3, 3), layouts[2] == torch.channels_last
    dweight, dbias = kernels.conv3x3_weight(x, grad, True, last)
    assert dweight.is_contiguous(memory_format=layouts[2])
    _assert_near(
        dweight, torch.nn.grad.conv2d_weight(x.double(), shape, grad.double(), padding=1), 4e-6
    )
    _assert_near(dbias, grad.double().sum((0, 2, 3)), 4e-6)


def test_independent_of_threads_and_of_the_rest_of_the_batch() -> None:
    tensors = _tensors(5, 60, 70, 16, 16, torch.contiguous_format)
    results = [_derivatives(tensors) for _ in with_threads(1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    x, weight, bias = tensors
    alone = torch.cat([ops.same_conv2d(x[i : i + 2], weight, bias) for i in (0, 2)])
    assert torch.equal(alone, results[0][0][:4])


def test_views() -> None:
    x, weight, bias = (t.detach() for t in _tensors(2, 20, 20, 16, 16, torch.contiguous_format))
    want = ops.same_conv2d(x, weight, bias)
    wide = torch.stack((x, torch.full_like(x, torch.nan)), -1)[..., 0]
    assert torch.equal(ops.same_conv2d(wide, weight, torch.stack((bias, bias), 1)[:, 0]), want)
    swapped = weight.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(ops.same_conv2d(x, swapped, bias), want)
    both = torch.cat((x, x), 1).to(memory_format=torch.channels_last)
    assert torch.equal(ops.same_conv2d(both[:, :20], weight, bias), want)


def test_only_the_gradients_asked_for(monkeypatch) -> None:
    called = []
    for name in ("conv3x3", "conv3x3_weight"):
        run = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *a, name=name, run=run: called.append(name) or run(*a)
        )
    x, weight, bias = _tensors(2, 16, 16, 16, 16, torch.contiguous_format)
    ops.same_conv2d(x, weight.detach(), bias.detach()).sum().backward()
    assert called == ["conv3x3", "conv3x3"]
    called.clear()
    ops.same_conv2d(x.detach(), weight, None).sum().backward()
    assert called == ["conv3x3", "conv3x3_weight"]
    called.clear()
    torch.autograd.grad(ops.same_conv2d(x, weight, bias).sum(), x)  # as R1 does
    assert called == ["conv3x3", "conv3x3"]
    called.clear()
    torch.autograd.grad(ops.same_conv2d(x, weight, bias).sum(), bias)
    assert called == ["conv3x3", "conv3x3_weight"]
    called.clear()
    gradients = torch.autograd.grad(ops.same_conv2d(2 * x, weight, bias).sum(), (x, weight))
    assert called == ["conv3x3", "conv3x3", "conv3x3_weight"]
    assert gradients[0].shape == x.shape


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, w: (x.double(), w.double()), "dtype"),
        (lambda x, w: (x[:, :15], w[:, :15]), "channels"),
        (lambda x, w: (x, w[:8]), "channels"),
        (lambda x, w: (x[..., :8, :12], w), "tiles"),
        (lambda x, w: (x[..., :1], w), "mostly outside of the image"),
        (lambda x, w: (x, w[..., 1:2, 1:2]), "1 x 1"),
        (lambda x, w: (x[:0], w), "no images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pytorch_convolves_the_rest(change, reason, monkeypatch) -> None:
    x, weight, _ = (t.detach() for t in _tensors(2, 16, 16, 16, 16, torch.contiguous_format))
    called = []
    run = kernels.conv3x3
    monkeypatch.setattr(kernels, "conv3x3", lambda *a: called.append(reason) or run(*a))
    ops.same_conv2d(x, weight)
    assert called == [reason]
    x, weight = change(x, weight)
    want = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    assert torch.equal(ops.same_conv2d(x, weight), want)
    assert called == [reason]


def test_autocast_and_the_reference_are_pytorchs() -> None:
    x, weight, bias = (t.detach() for t in _tensors(2, 16, 16, 16, 16, torch.contiguous_format))
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.same_conv2d(x, weight, bias).dtype == torch.bfloat16
    with ops.backend("torch"):
        assert torch.equal(ops.same_conv2d(x, weight, bias), F.conv2d(x, weight, bias, padding=1))


def test_what_does_not_fit_is_named() -> None:
    x, weight, bias = (t.detach() for t in _tensors(2, 16, 16, 16, 16, torch.contiguous_format))
    run = kernels.conv3x3
    with pytest.raises(RuntimeError, match="its channels those of x"):
        run(x[:, :8], weight, None, False)
    with pytest.raises(RuntimeError, match=r"bias must be float32 \(K,\)"):
        run(x, weight, bias[:8], False)
    with pytest.raises(RuntimeError, match="must be float32"):
        run(x.double(), weight, None, False)
    with pytest.raises(RuntimeError, match="the batch and the size of x"):
        kernels.conv3x3_weight(x, x[..., :8], True, False)

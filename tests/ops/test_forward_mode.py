"""Forward-mode derivatives, alone and under the other transforms of ``torch.func``."""

from collections.abc import Callable, Sequence

import pytest
import torch
from ops_cases import CASES, Case
from torch import Tensor, func
from torch.autograd import forward_ad

from ddgan import ops
from ddgan.ops.backend import kernels

CONV = Case("conv", ops.same_conv2d, ((2, 16, 16, 16), (16, 16, 3, 3), (16,)))
LEARNED = Case("learned_kernel", lambda x, k: ops.upfirdn2d(x, k), ((2, 2, 5, 4), (3, 3)))
NAMES = ("upsample", "upfirdn_plane", "norm", "norm_shared", "bias", "bias_clamp")
ALL = pytest.mark.parametrize("case", [*CASES, CONV, LEARNED], ids=str)
SOME = pytest.mark.parametrize(
    "case", [*[c for c in CASES if c.name in NAMES], CONV, LEARNED], ids=str
)
LIMITS = {torch.float64: 1e-9, torch.float32: 2e-5}
DTYPES = pytest.mark.parametrize("dtype", LIMITS, ids=str)

Function = Callable[..., Tensor]


def _along(case: Case, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of a case and a tangent of each."""
    tensors = [t.detach() for t in case.tensors(dtype)]
    generator = torch.Generator().manual_seed(1)
    tangents = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in tensors]
    return tensors, [t.to(dtype) for t in tangents]


def _duals(f: Function, at: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
    with forward_ad.dual_level():
        inputs = [forward_ad.make_dual(x, v) for x, v in zip(at, along, strict=True)]
        return forward_ad.unpack_dual(f(*inputs)).tangent


def _duals_of_gradient(f: Function, at: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
    """The gradient of plain autograd, its inputs being duals."""

    def gradient(*inputs: Tensor) -> Tensor:
        inputs = tuple(x.requires_grad_() for x in inputs)
        return _flat(torch.autograd.grad(f(*inputs).square().sum(), inputs, create_graph=True))

    return _duals(gradient, [x.clone() for x in at], along)


def _jvp(f: Function, at: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
    return func.jvp(f, tuple(at), tuple(along))[1]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def _gradient(f: Function, count: int) -> Function:
    gradient = func.grad(lambda *inputs: f(*inputs).square().sum(), tuple(range(count)))
    return lambda *inputs: _flat(gradient(*inputs))


def _no_grad(f: Function, at: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        return _duals(f, at, along)


def _first_alone(f: Function, at: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
    return _jvp(lambda x: f(x, *at[1:]), at[:1], along[:1])


def _rest_alone(f: Function, at: Sequence[Tensor], along: Sequence[Tensor]) -> Tensor:
    if len(at) == 1:
        pytest.skip("no parameters")
    return _jvp(lambda *rest: f(at[0], *rest), at[1:], along[1:])


FIRST = (_duals, _no_grad, _jvp, _first_alone, _rest_alone)


@ALL
@DTYPES
@pytest.mark.parametrize("transform", FIRST)
def test_tangents_are_those_of_the_reference(compiled_cpu, case, dtype, transform) -> None:
    at, along = _along(case, dtype)
    with ops.backend("torch"):
        want = transform(case.function, *([t.double() for t in ts] for ts in (at, along)))
    got = transform(case.function, at, along)
    assert got.dtype == dtype
    assert (got - want).norm() <= LIMITS[dtype] * want.norm()
    assert want.norm() > 0


@ALL
def test_tangents_are_finite_differences(any_backend, case: Case) -> None:
    at, along = _along(case, torch.float64)
    step = 1e-6
    with ops.backend("torch"):  # the compiled filters round a kernel to float32
        ends = [
            case.function(*[x + sign * step * v for x, v in zip(at, along, strict=True)])
            for sign in (1, -1)
        ]
    want = (ends[0] - ends[1]) / (2 * step)
    assert (_jvp(case.function, at, along) - want).norm() <= 1e-7 * want.norm()


def _forward_over_reverse(f: Function, at, along) -> Tensor:
    return _jvp(_gradient(f, len(at)), at, along)


def _reverse_over_forward(f: Function, at, along) -> Tensor:
    """Also the gradient with respect to the direction."""
    both = (*at, *along)
    count = len(at)
    return _gradient(lambda *inputs: _jvp(f, inputs[:count], inputs[count:]), len(both))(*both)


def _reverse_over_forward_of_duals(f: Function, at, along) -> Tensor:
    at, along = ([t.clone().requires_grad_() for t in tensors] for tensors in (at, along))
    both = [*at, *along]
    gradients = torch.autograd.grad(
        _duals(f, at, along).square().sum(), both, allow_unused=True, materialize_grads=True
    )
    return _flat(gradients)


def _columns(f: Function, at, along) -> Tensor:
    """A Jacobian with respect to positions along two directions."""

    def moved(a: Tensor) -> Tensor:
        inputs = [x + a[0] * v + a[1] * x for x, v in zip(at, along, strict=True)]
        return f(*inputs)

    return func.jacfwd(moved)(torch.zeros(2, dtype=at[0].dtype))


def _hessian(f: Function, at, along) -> Tensor:
    """Forward over reverse, for a batch of directions."""

    def energy(a: Tensor) -> Tensor:
        inputs = [x + a[0] * v + a[1] * x for x, v in zip(at, along, strict=True)]
        return f(*inputs).square().sum()

    return func.hessian(energy)(torch.zeros(2, dtype=at[0].dtype))


def _per_sample(f: Function, at, along) -> Tensor:
    """Gradients of tangents in vmap, whose levels hide that a derivative is wanted."""

    def energy(scale: Tensor) -> Tensor:
        inputs = [x + scale * v for x, v in zip(at, along, strict=True)]
        return (f(*inputs) * _jvp(f, inputs, along)).sum()

    return func.vmap(func.grad(energy))(torch.tensor([0.5, 1.0], dtype=at[0].dtype))


def _gradient_of_vmap(f: Function, at, along) -> Tensor:
    def energy(*inputs: Tensor) -> Tensor:
        stacks = [torch.stack((x, 2 * x)) for x in inputs]
        return func.vmap(f)(*stacks)

    return _gradient(energy, len(at))(*at)


COMPOSED = (
    _duals_of_gradient,
    _forward_over_reverse,
    _reverse_over_forward,
    _reverse_over_forward_of_duals,
    _columns,
    _hessian,
    _per_sample,
    _gradient_of_vmap,
)


@SOME
@DTYPES
@pytest.mark.parametrize("transform", COMPOSED)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_compositions_are_those_of_the_reference(compiled_cpu, case, dtype, transform) -> None:
    at, along = _along(case, dtype)
    with ops.backend("torch"):
        want = transform(case.function, *([t.double() for t in ts] for ts in (at, along)))
    got = transform(case.function, at, along)
    assert (got - want).norm() <= 10 * LIMITS[dtype] * want.norm()
    assert want.norm() > 0


def test_a_tangent_of_the_cotangent_alone(compiled_cpu) -> None:
    """A graph recorded before the dual level, whose backward takes a dual."""
    for case in CASES:
        tensors = case.tensors()
        y = case.function(*tensors)
        torch.manual_seed(0)
        cotangent, direction = torch.randn_like(y).detach(), torch.randn_like(y).detach()
        want = torch.autograd.grad(y, tensors, direction, retain_graph=True)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(cotangent, direction)
            got = torch.autograd.grad(y, tensors, dual)
            got = [forward_ad.unpack_dual(g).tangent for g in got]
        torch.testing.assert_close(got, list(want))


def test_what_is_not_differentiated_is_refused(compiled_cpu) -> None:
    case = next(c for c in CASES if c.name == "norm_silu")
    at, along = _along(case, torch.float64)

    def twice() -> Tensor:
        return _jvp(lambda *inputs: _jvp(case.function, inputs, along), at, along)

    with pytest.raises(RuntimeError, match=r"forward mode over forward mode.*backend\('torch'\)"):
        twice()
    with ops.backend("torch"):
        assert twice().norm() > 0
    for name in ("upsample", "bias"):
        case = next(c for c in CASES if c.name == name)
        at, along = _along(case, torch.float64)
        assert not twice().any()  # linear, or linear in pieces
    x, plane = torch.ones(1, 1, 3, 3), torch.ones(2, 2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(plane, plane)
        with pytest.raises(RuntimeError, match="no derivative with respect to its kernel"):
            kernels.upfirdn2d(x, [], dual, 1, 1, 1, 1, 0, 0, 0, 0, False, 1.0)

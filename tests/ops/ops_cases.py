"""Operations as functions of tensors alone, and how they are compared with the reference."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ddgan import ops

ASYMMETRIC = (1.0, 2.0, 3.0, 5.0)
PLANE = ((1.0, 2.0, -1.0), (0.5, 3.0, 4.0))


def _norm(x: Tensor, scale: Tensor, shift: Tensor, groups: int, activation: str | None) -> Tensor:
    return ops.ada_group_norm(x, groups, scale, shift, activation=activation)


def _bias(x: Tensor, *bias: Tensor, slope: float = 0.2, clamp: float | None = None) -> Tensor:
    return ops.fused_bias_leaky_relu(x, bias[0] if bias else None, slope, clamp=clamp)


@dataclass(frozen=True)
class Case:
    """An operation and the shapes of its tensors, the first being x."""

    name: str
    function: Callable[..., Tensor]
    shapes: Sequence[tuple[int, ...]] = field(default=((2, 2, 4, 3),))

    def __str__(self) -> str:
        return self.name

    def tensors(
        self, dtype: torch.dtype = torch.float64, device: str = "cpu", last: bool = False
    ) -> list[Tensor]:
        """Random tensors that require gradients."""
        generator = torch.Generator().manual_seed(len(self.name))
        made = [
            torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
            for shape in self.shapes
        ]
        if last and made[0].ndim == 4:
            made[0] = made[0].to(memory_format=torch.channels_last)
        return [t.requires_grad_() for t in made]


def _with_rows(x: tuple[int, ...], rows: int) -> tuple[tuple[int, ...], ...]:
    return x, (rows, x[1]), (rows, x[1])


def norm_case(name: str, groups: int, *x: int) -> Case:
    """AdaGN with SiLU of an ``x`` of this shape."""
    return Case(name, partial(_norm, groups=groups, activation="silu"), _with_rows(x, x[0]))


CASES = (
    Case("upsample", ops.upsample2d),
    Case("upsample_odd_kernel", partial(ops.upsample2d, kernel=(1, 2, 1), factor=3)),
    Case("upsample_asymmetric", partial(ops.upsample2d, kernel=ASYMMETRIC)),
    Case("downsample", ops.downsample2d),
    Case("downsample_even", ops.downsample2d, ((2, 3, 8, 4),)),
    Case("downsample_asymmetric", partial(ops.downsample2d, kernel=ASYMMETRIC)),
    Case("one_pixel_up", ops.upsample2d, ((2, 3, 1, 1),)),
    Case("down_to_one_pixel", ops.downsample2d, ((2, 3, 2, 3),)),
    Case(
        "upfirdn_anisotropic",
        partial(ops.upfirdn2d, kernel=ASYMMETRIC, up=(3, 2), down=(2, 1), padding=(4, 3, -1, 5)),
    ),
    Case(
        "upfirdn_plane",
        partial(ops.upfirdn2d, kernel=PLANE, up=(1, 2), down=(3, 1), padding=(2, 1), gain=0.5),
    ),
    Case("norm", partial(_norm, groups=2, activation=None), _with_rows((2, 4, 5, 3), 2)),
    norm_case("norm_silu", 2, 2, 4, 5, 3),
    Case("norm_shared", partial(_norm, groups=1, activation="silu"), _with_rows((3, 2, 2, 2), 1)),
    norm_case("norm_single", 4, 2, 4, 3, 1),
    norm_case("norm_rows", 2, 3, 6),
    Case("bias", _bias, ((2, 4, 3, 5), (4,))),
    Case("bias_none", _bias, ((2, 4, 3, 5),)),
    Case("bias_negative_slope", partial(_bias, slope=-0.3), ((2, 4, 3, 5), (4,))),
    Case("bias_clamp", partial(_bias, clamp=0.9), ((2, 4, 3, 5), (4,))),
    Case("bias_rows", _bias, ((5, 7), (7,))),
    Case("bias_volume", _bias, ((2, 3, 2, 2, 2), (3,))),
)


def with_dtypes(*dtypes: torch.dtype) -> list[tuple[Case, torch.dtype]]:
    """The cases with each dtype in which their derivatives are continuous.

    Half precision moves values across the clamp, where the derivative jumps.
    """
    half = (torch.float16, torch.bfloat16)
    return [(c, d) for c in CASES for d in dtypes if not ("clamp" in c.name and d in half)]


def derivatives(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], order: int = 2
) -> list[Tensor]:
    """The value, its gradients and, of order 2, the gradients of the sum of their squares."""
    y = function(*tensors)
    cotangent = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y)
    cotangent.requires_grad_()
    first = torch.autograd.grad(y, tensors, cotangent, create_graph=order > 1)
    if order == 1:
        return [y, *first]
    penalty = sum(g.double().square().sum() for g in first)
    second = torch.autograd.grad(
        penalty, [cotangent, *tensors], allow_unused=True, materialize_grads=True
    )
    return [y, *first, *second]


def assert_like_reference(
    function: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    limit: float,
    device: str = "cpu",
    order: int = 2,
) -> None:
    """Compare the compiled operators on a device with the reference in float64 on the CPU."""
    with ops.backend("torch"):
        exact = [t.detach().double().requires_grad_() for t in tensors]
        want = derivatives(function, exact, order)
    with ops.backend(device):
        got = derivatives(
            function, [t.detach().to(device).requires_grad_() for t in tensors], order
        )
    assert got[0].dtype == tensors[0].dtype
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        error = (a.double().cpu() - b).abs().max() if b.numel() else 0
        assert error <= limit * max(1.0, b.abs().max() if b.numel() else 0)


def with_threads(*numbers: int) -> Iterator[int]:
    """Set the number of threads to each of ``numbers`` in turn, and then back."""
    before = torch.get_num_threads()
    try:
        for number in numbers:
            torch.set_num_threads(number)
            yield number
    finally:
        torch.set_num_threads(before)

"""The compiled operators against what else computes the same, and against the floor."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import Clock, Work, measure, within
from ddgan import ops

SIZES = {
    "cpu": ((16, 128, 32, 32), (2, 64, 256, 256)),
    "cuda": ((128, 256, 32, 32), (8, 128, 256, 256)),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PASSES = ("forward", "forward+backward", "double backward")


@dataclass
class Operator:
    """An operator, its further inputs and its competitors."""

    name: str
    function: Callable[..., Tensor]
    parameters: tuple[Tensor, ...]
    single: Callable[[Tensor], Tensor] | None = None  # the best single PyTorch operator
    # Bytes that forward and backward must move, in units of x; None where products take longer.
    moved: tuple[float, float] | None = None


def operators(x: Tensor) -> list[Operator]:
    """The operators on ``x`` (N, C, H, W) as the networks use them."""
    n, c = x.shape[:2]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    weight = torch.outer(taps, taps).to(x).expand(c, 1, 4, 4).contiguous()
    scale, shift = (torch.randn(n, c, device=x.device) for _ in range(2))
    bias = torch.randn(c, device=x.device)
    mask = 2 / (8 * x.element_size())  # the forward writes a bit an element for the backward

    def norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return ops.ada_group_norm(x, 32, scale, shift, activation="silu")

    def up(x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, 4 * weight, stride=2, padding=1, groups=c)

    def down(x: Tensor) -> Tensor:
        return F.conv2d(x, weight, stride=2, padding=1, groups=c)

    found = [
        Operator("upsample2d", ops.upsample2d, (), up, (5, 5)),
        Operator("downsample2d", ops.downsample2d, (), down, (1.25, 1.25)),
        Operator("ada_group_norm+silu", norm, (scale, shift), moved=(2, 3)),
        Operator("fused_bias_leaky_relu", ops.fused_bias_leaky_relu, (bias,), moved=(2, 2 + mask)),
    ]
    if x.dtype == torch.float32 and not x.is_cuda:  # elsewhere PyTorch convolves
        kernel = torch.randn(c, c, 3, 3) / (3 * c**0.5)
        found.append(Operator("same_conv2d", ops.same_conv2d, (kernel, bias)))
    return found


def work_of(function: Callable[..., Tensor], which: str, inputs: list[Tensor]) -> Work:
    """One of PASSES through ``function``, as a call without arguments."""
    if which == "forward":
        detached = [t.detach() for t in inputs]
        return lambda: function(*detached)
    with ops.backend("torch"):
        cotangent = torch.randn_like(function(*inputs))
    if which == "forward+backward":
        return lambda: torch.autograd.grad(function(*inputs), inputs, cotangent)
    cotangent.requires_grad_()

    def double() -> object:
        (g,) = torch.autograd.grad(function(*inputs), inputs[:1], cotangent, create_graph=True)
        return torch.autograd.grad(g.square().sum(), [cotangent, *inputs], allow_unused=True)

    return double


def row(operator: Operator, x: Tensor, which: str, clock: Clock, options) -> dict[str, Any]:
    """Measure one line of the table: milliseconds of each variant, and the floor."""
    inputs = [t.detach().requires_grad_() for t in (x, *operator.parameters)]
    work = work_of(operator.function, which, inputs)
    reference = partial(ops.backend, "torch")
    variants = {
        "op": within(partial(ops.backend, x.device.type), work),
        "reference": within(reference, work),
    }
    if not options.no_compile and which != "double backward":  # which torch.compile cannot do
        torch.compiler.reset()
        compiled = torch.compile(operator.function, dynamic=False)
        variants["compile"] = within(reference, work_of(compiled, which, inputs))
    if operator.single is not None:
        variants["single op"] = work_of(operator.single, which, inputs[:1])
    times = measure(variants, clock, options.rounds)
    floor = None
    if operator.moved is not None and which != "double backward":
        # A copy reads and writes x once.
        target = torch.empty_like(x)
        copy = measure({"copy": lambda: target.copy_(x)}, clock, options.rounds)["copy"]
        moved = operator.moved[0] if which == "forward" else sum(operator.moved)
        floor = moved * copy / 2
    dtype = str(x.dtype).removeprefix("torch.")
    return {
        "op": operator.name,
        "size": tuple(x.shape),
        "dtype": dtype,
        "work": which,
        "times": times,
        "floor": floor,
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=tuple(DTYPES),
        help="default: float32 on the CPU, float32 and bfloat16 on a GPU",
    )
    parser.add_argument("--only", nargs="+", default=[""], help="operators whose name has this")
    parser.add_argument("--size", type=int, nargs=4, metavar=("N", "C", "H", "W"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Operators against the reference, torch.compile, the best single op and the floor.

    The floor is the time that a copy takes for the bytes that have to be read and written.
    """
    clock = Clock(options.device, options.threads)
    print("milliseconds; in brackets, how many times the operator's time that is")
    sizes = (tuple(options.size),) if options.size else SIZES[options.device]
    dtypes = options.dtype or (["float32"] if options.device == "cpu" else ["float32", "bfloat16"])
    rows = []
    for size in sizes:
        for dtype in dtypes:
            x = torch.randn(size, device=options.device).to(DTYPES[dtype])
            x = x.to(memory_format=torch.channels_last) if options.channels_last else x
            for operator in operators(x):
                if not any(part in operator.name for part in options.only):
                    continue
                for which in PASSES:
                    rows.append(row(operator, x, which, clock, options))
                    print(line(rows[-1]), flush=True)
    return {"rows": rows}


def line(row: dict[str, Any]) -> str:
    """One line of the table."""
    size = "x".join(map(str, row["size"]))
    others = dict(row["times"])
    own = others.pop("op")
    text = f"{row['op']:22} {size:14} {row['dtype']:9} {row['work']:16} op {own:8.3f}"
    if row["floor"] is not None:
        others["floor"] = row["floor"]
    return text + "".join(f"  {name} {ms:8.3f} ({ms / own:5.2f})" for name, ms in others.items())

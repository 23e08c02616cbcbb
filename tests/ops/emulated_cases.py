"""Runs the emulated CUDA kernels on small tensors and compares them with the reference.

``python emulated_cases.py LIBRARY``, where LIBRARY is emulation/emulated.cpp built as a shared
library; under a sanitizer, preload its runtime. Prints one line a case and exits 1 on a mismatch.
"""

import ctypes
import itertools
import sys

import torch
from torch import Tensor

from ddgan.ops.ada_group_norm import ada_group_norm_reference
from ddgan.ops.bias_leaky_relu import bias_leaky_relu_reference
from ddgan.ops.upfirdn2d import upfirdn2d_reference

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
I64, I32, F64, PTR, BOOL = (
    ctypes.c_int64,
    ctypes.c_int32,
    ctypes.c_double,
    ctypes.c_void_p,
    ctypes.c_bool,
)


class Param(ctypes.Structure):
    _fields_ = [("data", PTR), ("dtype", I32), ("stride_n", I64)]


def _struct(name: str, *fields: str | tuple[str, type]) -> type[ctypes.Structure]:
    """Build a mirror of a struct in csrc/common/types.h: "a b:type" groups, in order."""
    listed = []
    for group in fields:
        names, kind = group
        listed += [(field, kind) for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": listed})


Fir = _struct(
    "Fir",
    ("dtype", I32),
    ("x y", PTR),
    ("planes inner in_h in_w out_h out_w", I64),
    ("up_x up_y down_x down_y", I32),
    ("pad_x pad_y", I64),
    ("taps_x taps_y", I32),
    ("weights_x weights_y", F64 * 32),
    ("weights_2d", PTR),
    ("flip_2d", BOOL),
    ("gain_2d", F64),
)
BiasAct = _struct(
    "BiasAct",
    ("dtype", I32),
    ("x y mask", PTR),
    ("planes", I32),
    ("bias_grad", PTR),
    ("bias", Param),
    ("n c s", I64),
    ("channels_last", BOOL),
    ("slope gain clamp", F64),
)
AdaNorm = _struct(
    "AdaNorm",
    ("dtype", I32),
    ("n c s groups", I64),
    ("channels_last silu", BOOL),
    ("eps", F64),
    ("x grad grad_grad", PTR),
    ("scale shift", Param),
    ("cot_scale cot_shift mean rstd y y2 dscale dshift", PTR),
)


def code(dtype: torch.dtype) -> int:
    return DTYPES.index(dtype)


def accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def param(t: Tensor) -> Param:
    return Param(t.data_ptr(), code(t.dtype), t.stride(0) if t.ndim == 2 and len(t) > 1 else 0)


def randn(*shape: int, dtype: torch.dtype, last: bool = False) -> Tensor:
    t = torch.randn(shape, dtype=torch.float64).to(dtype)
    return t.to(memory_format=torch.channels_last) if last else t


class Checker:
    """Collects mismatches against a float64 reference."""

    def __init__(self) -> None:
        self.failures = 0
        self.cases = 0

    def check(self, name: str, got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
        limit = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 4e-3}.get(dtype, 3e-2)
        error = (got.double() - want.double()).abs().max().item()
        scale = max(1.0, want.double().abs().max().item())
        ok = error <= limit * scale and got.isfinite().all().item()
        self.cases += 1
        self.failures += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {name} {dtype} error {error:.2e} of {scale:.2e}")


def fir(lib, check: Checker, dtype: torch.dtype, last: bool, case: tuple) -> None:
    shape, taps, up, down, pad, two_d = case
    x = randn(*shape, dtype=dtype, last=last)
    kernel = torch.randn(taps, taps) if two_d else torch.randn(taps).double()
    full = kernel if two_d else torch.outer(kernel, kernel)
    want = upfirdn2d_reference(x.double(), full.double(), up, down, pad, 2.0)
    y = torch.empty(want.shape, dtype=dtype)
    y = y.to(memory_format=torch.channels_last) if last else y
    n, c, h, w = shape
    p = Fir(code(dtype), x.data_ptr(), y.data_ptr(), n if last else n * c, c if last else 1, h, w)
    p.out_h, p.out_w = want.shape[2:]
    (p.up_x, p.up_y), (p.down_x, p.down_y) = up, down
    p.pad_x, p.pad_y, p.taps_x, p.taps_y = pad[0], pad[2], taps, taps
    if two_d:
        p.weights_2d, p.flip_2d, p.gain_2d = full.data_ptr(), True, 2.0
    else:
        flipped = kernel.flip(0).tolist()
        p.weights_x[:taps] = flipped
        p.weights_y[:taps] = [2.0 * tap for tap in flipped]
    lib.emulated_fir(ctypes.byref(p))
    check.check(f"fir {case} last={last}", y, want, dtype)


FIR_CASES = (
    ((2, 16, 8, 8), 4, (2, 2), (1, 1), (2, 1, 2, 1), False),
    ((1, 8, 5, 3), 4, (2, 2), (1, 1), (2, 1, 2, 1), False),
    ((2, 16, 16, 16), 4, (1, 1), (2, 2), (1, 1, 1, 1), False),
    ((1, 8, 7, 9), 4, (1, 1), (2, 2), (1, 1, 1, 1), False),
    ((2, 3, 1, 1), 4, (2, 2), (1, 1), (2, 1, 2, 1), False),
    ((1, 3, 11, 6), 5, (3, 2), (2, 1), (4, 3, -1, 6), False),
    ((1, 2, 9, 9), 3, (1, 2), (2, 3), (2, 1, 2, 3), True),
)


def bits(positive: Tensor, last: bool) -> Tensor:
    """A plane of the mask of an NCHW tensor of booleans: rows of whole bytes."""
    rows = (positive.permute(0, 2, 3, 1) if last else positive).flatten(0, 2 if last else 1)
    rows = rows.reshape(len(rows), -1).long()
    rows = torch.nn.functional.pad(rows, (0, -rows.shape[1] % 8))
    return (rows.unflatten(1, (-1, 8)) * 2 ** torch.arange(8)).sum(2)


def bias_act(lib, check: Checker, dtype: torch.dtype, last: bool, case: tuple) -> None:
    (n, c, h, w), slope, clamp = case
    gain = 2**0.5
    x, grad = (randn(n, c, h, w, dtype=dtype, last=last) for _ in range(2))
    bias = torch.randn(c)
    x64, b64 = x.double().requires_grad_(), bias.double().requires_grad_()
    free = bias_leaky_relu_reference(x64, b64, slope, gain, None)
    want = free if clamp is None else free.clamp(-clamp, clamp)
    want_dx, want_db = torch.autograd.grad(want, (x64, b64), grad.double())
    planes = [bits(x64 + b64[:, None, None] > 0, last)]
    if clamp is not None:
        planes.append(bits(free.abs() <= clamp, last))
    mask = torch.full((len(planes), *planes[0].shape), 170, dtype=torch.uint8)
    y, dx = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    p = BiasAct(code(dtype), x.data_ptr(), y.data_ptr(), None, 0, None, param(bias), n, c, h * w)
    p.channels_last, p.slope, p.gain, p.clamp = last, slope, gain, -1.0 if clamp is None else clamp
    lib.emulated_bias_act(ctypes.byref(p))
    check.check(f"bias_act {case} last={last}", y, want, dtype)
    p.mask, p.planes = mask.data_ptr(), len(planes)
    y.fill_(torch.nan)
    lib.emulated_bias_act(ctypes.byref(p))
    check.check("  y with the mask", y, want, dtype)
    check.check("  mask", mask, torch.stack(planes), torch.float64)
    p.x, p.y, p.bias = grad.data_ptr(), dx.data_ptr(), Param()
    lib.emulated_bias_act_grad(ctypes.byref(p))
    check.check("  dx alone", dx, want_dx, dtype)
    rows = lib.emulated_bias_grad_rows(ctypes.byref(p))
    partial = torch.full((rows, c), torch.nan, dtype=accumulation(dtype))
    dx.fill_(torch.nan)
    p.bias_grad = partial.data_ptr()
    lib.emulated_bias_act_grad(ctypes.byref(p))
    check.check("  dx", dx, want_dx, dtype)
    check.check("  db", partial.sum(0), want_db, dtype)


# Rows (pixels or channels) of whole packs and bytes, of packs alone, and of neither.
BIAS_CASES = (
    ((2, 16, 4, 4), 0.2, None),
    ((3, 12, 3, 4), 0.2, 0.7),
    ((3, 5, 3, 1), -0.5, 0.7),
    ((2, 17, 3, 3), 0.2, None),
    ((1, 1, 33, 1), 0.2, 0.5),
    ((1, 8, 160, 128), 0.0, None),
)


def norm(lib, check: Checker, dtype: torch.dtype, last: bool, case: tuple) -> None:
    (n, c, h, w), groups, silu, eps, *offset = case
    acc = accumulation(dtype)
    x, grad, u = (randn(n, c, h, w, dtype=dtype, last=last) for _ in range(3))
    x += sum(offset)
    scale, shift = (torch.randn(n, 2 * c).chunk(2, 1)[i] for i in range(2))
    ins = [t.double().requires_grad_() for t in (x, scale, shift)]
    g64 = grad.double().requires_grad_()
    want = ada_group_norm_reference(ins[0], groups, *ins[1:], eps, silu)
    first = torch.autograd.grad(want, ins, g64, create_graph=True)
    cots = (u.double(), torch.randn(n, c).double(), torch.randn(n, c).double())
    second = torch.autograd.grad(
        first, (g64, *ins), cots, allow_unused=True, materialize_grads=True
    )

    mean, rstd = (torch.full((n, groups), torch.nan, dtype=acc) for _ in range(2))
    y, dgrad = torch.empty_like(x), torch.empty_like(x)
    dscale, dshift = (torch.full((n, c), torch.nan, dtype=acc) for _ in range(2))
    cot_scale, cot_shift = cots[1].to(acc), cots[2].to(acc)
    p = AdaNorm(code(dtype), n, c, h * w, groups, last, silu, eps)
    p.x, p.grad, p.grad_grad = x.data_ptr(), grad.data_ptr(), u.data_ptr()
    p.scale, p.shift = param(scale), param(shift)
    p.scale.stride_n = p.shift.stride_n = scale.stride(0)
    p.cot_scale, p.cot_shift = cot_scale.data_ptr(), cot_shift.data_ptr()
    p.mean, p.rstd, p.y, p.y2 = mean.data_ptr(), rstd.data_ptr(), y.data_ptr(), dgrad.data_ptr()
    p.dscale, p.dshift = dscale.data_ptr(), dshift.data_ptr()
    outputs = (
        [("y", y, want)],
        [("dx", y, first[0]), ("dscale", dscale, first[1]), ("dshift", dshift, first[2])],
        [
            ("second grad", dgrad, second[0]),
            ("second x", y, second[1]),
            ("second scale", dscale, second[2]),
            ("second shift", dshift, second[3]),
        ],
    )
    for index, results in enumerate(outputs):
        y.fill_(torch.nan)
        size = lib.emulated_norm_scratch(ctypes.byref(p), index)
        scratch = torch.full((size,), torch.nan, dtype=acc)
        lib.emulated_norm(ctypes.byref(p), index, ctypes.c_void_p(scratch.data_ptr()))
        for name, got, wanted in results:
            check.check(f"norm {case} last={last} {name}", got, wanted, dtype)


NORM_CASES = (
    ((2, 8, 4, 4), 4, True, 1e-6),
    ((1, 6, 5, 3), 1, False, 1e-6),
    ((2, 4, 96, 96), 1, True, 1e-6),
    ((2, 3, 1, 1), 3, True, 0.1),
    # More than one block's registers, in one block; channels of one group over several blocks; in
    # NHWC two teams for a sample. Above, teams of blocks that come round again.
    ((1, 16, 32, 32), 1, True, 1e-6),
    ((1, 301, 1, 2), 1, True, 1e-3),
    ((1, 64, 33, 32), 2, True, 1e-6),
    # Moments far from zero, which naive sums of squares would lose.
    ((1, 16, 8, 12), 4, True, 1e-3, 300.0),
)


def main() -> int:
    torch.manual_seed(0)
    lib = ctypes.CDLL(sys.argv[1])
    lib.emulated_bias_grad_rows.restype = lib.emulated_norm_scratch.restype = I64
    check = Checker()
    for dtype, last in itertools.product((torch.float32, torch.bfloat16), (False, True)):
        for run, cases in ((fir, FIR_CASES), (bias_act, BIAS_CASES), (norm, NORM_CASES)):
            for case in cases:
                run(lib, check, dtype, last, case)
    print(f"{check.cases} comparisons, {check.failures} failures")
    return int(check.failures > 0)


if __name__ == "__main__":
    sys.exit(main())

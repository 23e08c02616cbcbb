"""The compiled operators against their reference, torch.compile, the best single op and the floor.

Every variant of a row runs in one process, in interleaved rounds, and the median round counts, so
that a noisy machine disturbs all of them alike. CPU times are CPU seconds of the process on one
thread (``--threads`` above 1 switches to wall time), CUDA times come from events on the stream.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan import ops
from ddgan.utils.device import set_up_cpu

SIZES = {
    "cpu": ((16, 128, 32, 32), (2, 64, 256, 256)),
    "cuda": ((128, 256, 32, 32), (8, 128, 256, 256)),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PASSES = ("forward", "forward+backward", "double backward")
Variant = Callable[[], object]


@dataclass
class Row:
    """One line of the table: milliseconds of each variant, None where there is none."""

    op: str
    size: tuple[int, ...]
    dtype: str
    work: str
    times: dict[str, float]
    floor: float | None

    def ratio(self, name: str) -> float | None:
        """Return how many times slower than the operator a variant is."""
        return self.times[name] / self.times["op"] if name in self.times else None


@dataclass
class Subject:
    """An operator, its inputs and what it competes with."""

    name: str
    function: Callable[..., Tensor]
    single: Callable[[Tensor], Tensor] | None  # the best single PyTorch op for the same result
    parameters: tuple[Tensor, ...]
    # Inputs' worth of bytes that forward, and backward, must move; None where products take longer.
    moved: tuple[float, float] | None


def subjects(x: Tensor) -> list[Subject]:
    """Return the operations on ``x``, as the networks use them."""
    n, c = x.shape[:2]
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    weight = torch.outer(taps, taps).to(x).expand(c, 1, 4, 4).contiguous()
    rows = [torch.randn(n, c, device=x.device) for _ in range(2)]
    bias = torch.randn(c, device=x.device)
    mask = 2 / (8 * x.element_size())  # a bit an element, which the forward writes for the backward

    def norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return ops.ada_group_norm(x, 32, scale, shift, activation="silu")

    def up(x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, 4 * weight, stride=2, padding=1, groups=c)

    def down(x: Tensor) -> Tensor:
        return F.conv2d(x, weight, stride=2, padding=1, groups=c)

    found = [
        Subject("upsample2d", ops.upsample2d, up, (), (5, 5)),
        Subject("downsample2d", ops.downsample2d, down, (), (1.25, 1.25)),
        Subject("ada_group_norm+silu", norm, None, tuple(rows), (2, 3)),
        Subject("fused_bias_leaky_relu", ops.fused_bias_leaky_relu, None, (bias,), (2, 2 + mask)),
    ]
    if x.dtype == torch.float32 and not x.is_cuda:  # elsewhere PyTorch convolves
        taps = torch.randn(c, c, 3, 3) / (3 * c**0.5)
        found.append(Subject("same_conv2d", ops.same_conv2d, None, (taps, bias), None))
    return found


class Clock:
    """Times repeated calls, in seconds a call."""

    def __init__(self, device: str, threads: int) -> None:
        self.cuda = device == "cuda"
        self.now = time.process_time if threads == 1 else time.perf_counter

    def __call__(self, call: Variant, repeats: int) -> float:
        """Return the seconds of one call, averaged over ``repeats`` calls in a row."""
        if self.cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(repeats):
                call()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3 / repeats
        start = self.now()
        for _ in range(repeats):
            call()
        return (self.now() - start) / repeats


def measure(variants: dict[str, Variant], clock: Clock, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each variant over interleaved rounds."""
    repeats = {}
    for name, call in variants.items():
        call()  # compiles and allocates
        repeats[name] = max(1, min(50, int(0.02 / max(clock(call, 1), 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            times[name].append(clock(call, repeats[name]))
    return {name: 1e3 * statistics.median(rounds_) for name, rounds_ in times.items()}


def on(backend: str, call: Variant) -> Variant:
    """Return ``call`` under a backend of ddgan.ops."""

    def run() -> object:
        with ops.backend(backend):
            return call()

    return run


def work_of(function: Callable[..., Tensor], work: str, inputs: list[Tensor]) -> Variant:
    """Return a call without arguments that does one kind of work with ``function``."""
    if work == "forward":
        detached = [t.detach() for t in inputs]
        return lambda: function(*detached)
    with ops.backend("torch"):
        cotangent = torch.randn_like(function(*inputs))
    if work == "forward+backward":
        return lambda: torch.autograd.grad(function(*inputs), inputs, cotangent)
    cotangent.requires_grad_()

    def double() -> object:
        (g,) = torch.autograd.grad(function(*inputs), inputs[:1], cotangent, create_graph=True)
        return torch.autograd.grad(g.square().sum(), [cotangent, *inputs], allow_unused=True)

    return double


def row_of(
    subject: Subject, x: Tensor, work: str, clock: Clock, rounds: int, compile_too: bool
) -> Row:
    """Measure one line of the table."""
    inputs = [t.detach().requires_grad_() for t in (x, *subject.parameters)]
    native = work_of(subject.function, work, inputs)
    variants = {"op": on(x.device.type, native), "reference": on("torch", native)}
    if compile_too and work != "double backward":  # which torch.compile cannot do
        torch.compiler.reset()
        compiled = torch.compile(subject.function, dynamic=False)
        variants["compile"] = on("torch", work_of(compiled, work, inputs))
    if subject.single is not None:
        variants["single op"] = work_of(subject.single, work, inputs[:1])
    target = torch.empty_like(x)
    copy = measure({"copy": lambda: target.copy_(x)}, clock, rounds)["copy"]
    moved = None
    if subject.moved is not None:
        moved = {"forward": subject.moved[0], "forward+backward": sum(subject.moved)}.get(work)
    return Row(
        op=subject.name,
        size=tuple(x.shape),
        dtype=str(x.dtype).removeprefix("torch."),
        work=work,
        times=measure(variants, clock, rounds),
        floor=None if moved is None else moved * copy / 2,
    )


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the CPU as the system reports it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=tuple(DTYPES),
        help="default: float32 on the CPU, float32 and bfloat16 on a GPU",
    )
    parser.add_argument("--only", nargs="+", default=[], help="operators whose name contains this")
    parser.add_argument("--size", type=int, nargs=4, metavar=("N", "C", "H", "W"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")


def run(options: argparse.Namespace) -> int:
    """Measure and print all rows."""
    torch.set_num_threads(options.threads)
    set_up_cpu()
    torch.manual_seed(0)
    clock = Clock(options.device, options.threads)
    name = device_name(options.device)
    print(f"{name}, PyTorch {torch.__version__}, {options.threads} thread(s); milliseconds, and in")
    print("brackets how many times the operator's time that is")
    sizes = (tuple(options.size),) if options.size else SIZES[options.device]
    dtypes = options.dtype or (["float32"] if options.device == "cpu" else ["float32", "bfloat16"])
    rows = []
    for size in sizes:
        for dtype in dtypes:
            x = torch.randn(size, device=options.device).to(DTYPES[dtype])
            x = x.to(memory_format=torch.channels_last) if options.channels_last else x
            for subject in subjects(x):
                if options.only and not any(part in subject.name for part in options.only):
                    continue
                for work in PASSES:
                    row = row_of(subject, x, work, clock, options.rounds, not options.no_compile)
                    rows.append(row)
                    print(line_of(row), flush=True)
    if options.json:
        record = {"device": name, "torch": torch.__version__, "threads": options.threads}
        record["rows"] = [asdict(row) for row in rows]
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def line_of(row: Row) -> str:
    """Return one line of the table."""
    size = "x".join(map(str, row.size))
    text = f"{row.op:22} {size:14} {row.dtype:9} {row.work:16} op {row.times['op']:8.3f}"
    for name in ("reference", "compile", "single op"):
        ratio = row.ratio(name)
        text += "" if ratio is None else f"  {name} {row.times[name]:8.3f} ({ratio:5.2f})"
    if row.floor is not None:
        text += f"  floor {row.floor:7.3f} ({row.floor / row.times['op']:4.2f})"
    return text

"""Finds and loads the compiled operators, and chooses who computes: they or plain PyTorch.

Nothing is compiled here. The library loads when an operation first asks for it.
"""

import ctypes
import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

BACKENDS = ("auto", "torch", "cpu", "cuda")
HOW_TO_BUILD = "build them with `python setup.py build_ext --inplace` or `pip install -e .`"
# A library built from older sources lacks this operator.
_NEWEST = "conv3x3_weight"

kernels = torch.ops.ddgan

_loading = threading.Lock()
_built: dict[str, bool] = {}
_runs_on: dict[int, bool] = {}  # by the index of a GPU
# Registered by the files of the operations: name -> (fake, setup_context, backward, jvp).
_derivatives: dict[str, tuple[Callable, Callable, Callable, Callable]] = {}


def _check_name(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}; expected one of {', '.join(BACKENDS)}")
    return name


_current = _check_name(os.environ.get("DDGAN_OPS", "auto").lower() or "auto", "DDGAN_OPS")


# Find and load.


def library_path() -> Path | None:
    """The library's file, or None if it is not built."""
    return next(iter(sorted(Path(__file__).parent.glob("_ops*.so"))), None)


@cache
def _load() -> str | None:
    path = library_path()
    if path is None:
        return f"the compiled operators are not built; {HOW_TO_BUILD}"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        problem = f"{path.name} does not load into PyTorch {torch.__version__}: {error}"
        return f"{problem}; {HOW_TO_BUILD}"
    if not hasattr(kernels, _NEWEST):
        return f"{path.name} was built from older sources; {HOW_TO_BUILD}"
    for name, (fake, *derivatives) in _derivatives.items():
        torch.library.register_fake(f"ddgan::{name}", fake)
        _register_autograd(name, *derivatives)
    return None


def load() -> str | None:
    """Load the library once; None on success, else the reason and how to build it."""
    with _loading:
        return _load()


@torch.compiler.assume_constant_result  # torch.compile cannot trace loading
def built_for(device: str, index: int | None = None) -> bool:
    """Whether the library implements the operators on ``"cpu"`` or ``"cuda"``; loads it.

    With the ``index`` of a GPU, whether its kernels run there; if not, one warning says why.
    """
    if not _built:
        reason = load()
        if reason and _current == "auto":
            logging.getLogger(__name__).warning("ddgan.ops runs on plain PyTorch: %s", reason)
        for kind in ("cpu", "cuda"):
            _built[kind] = reason is None and _has_kernel("ddgan::upfirdn2d", kind.upper())
    built = _built.get(device, False)
    if not built or device != "cuda" or index is None:
        return built
    if index not in _runs_on:
        problem = cuda_problem(index)
        if problem and _current == "auto":
            logging.getLogger(__name__).warning(
                "ddgan.ops runs on plain PyTorch on cuda:%d: %s", index, problem
            )
        _runs_on[index] = problem is None
    return _runs_on[index]


def cuda_problem(index: int) -> str | None:
    """Why the library's CUDA kernels do not run on a GPU, and the way out; None if they do."""
    library = ctypes.CDLL(str(library_path()))
    if not hasattr(library, "ddgan_cuda_probe"):
        return f"the library was built from older sources; {HOW_TO_BUILD}"
    major, used = library.ddgan_cuda_toolkit() // 1000, torch.version.cuda
    if used is not None and int(used.split(".")[0]) != major:
        return (
            f"the library was built with CUDA {major}, but PyTorch uses CUDA {used}; build it with "
            f"a toolkit {used.split('.')[0]}.x in CUDA_HOME"
        )
    library.ddgan_cuda_probe.restype = ctypes.c_char_p
    error = library.ddgan_cuda_probe(index)
    if error is None:
        return None
    architecture = ".".join(map(str, torch.cuda.get_device_capability(index)))
    return (
        f"the library has no kernels that run on a GPU of architecture {architecture} "
        f"({error.decode()}); build it with TORCH_CUDA_ARCH_LIST={architecture}"
    )


@cache
def cpu_capability() -> str:
    """The instruction set that the CPU kernels use here: baseline, avx2 or avx512."""
    function = ctypes.CDLL(str(library_path())).ddgan_cpu_capability
    function.restype = ctypes.c_char_p
    return function().decode()


# Choose.


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Use one backend inside the ``with`` block, in every thread: auto, torch, cpu or cuda.

    ``"torch"`` is the plain PyTorch reference; ``"auto"`` takes the compiled operator where one is
    built for the tensor's device and the reference elsewhere. Raises ValueError for an unknown
    name and RuntimeError for a backend that is not built.
    """
    global _current
    source = "ddgan.ops.backend()"
    if _check_name(name, source) in ("cpu", "cuda") and not built_for(name):
        raise _not_built(name, source)
    previous, _current = _current, name
    try:
        yield
    finally:
        _current = previous


def current_backend() -> str:
    """The backend asked for: auto, torch, cpu or cuda."""
    return _current


def compiled(x: Tensor) -> bool:
    """Whether the compiled operators compute on ``x``.

    Raises RuntimeError if a backend was asked for that is not built or not for ``x``'s device.
    """
    if _current == "torch":
        return False
    kind, index = x.device.type, x.device.index
    if _current == "auto":
        return built_for(kind, index) and x.is_floating_point()
    if kind != _current:
        raise RuntimeError(
            f"the {_current!r} operators were asked for, but the tensor is on {x.device}; "
            "use backend 'auto' or move the tensor"
        )
    if not built_for(kind):
        raise _not_built(kind, "DDGAN_OPS")
    if not built_for(kind, index):
        raise RuntimeError(f"the 'cuda' operators were asked for, but {cuda_problem(index)}")
    return x.is_floating_point()


def _not_built(name: str, source: str) -> RuntimeError:
    problem = load() or f"the library was built without {name}; {HOW_TO_BUILD}"
    hint = " with DDGAN_CUDA=1 and nvcc on the PATH" if name == "cuda" else ""
    return RuntimeError(f"{source} asks for the {name!r} operators, but {problem}{hint}")


# Report.


def _build_info() -> dict[str, str]:
    try:
        return dict(importlib.import_module("ddgan.ops._build_info").info())
    except ImportError:
        return {}


def _choice(kind: str, index: int | None = None) -> str:
    if _current in (kind, "auto") and built_for(kind, index):
        return f"the compiled {kind} operators"
    return "the PyTorch reference" if _current in ("auto", "torch") else "an error"


def _gpu_lines() -> list[str]:
    """What each GPU is and runs, and why."""
    if not torch.cuda.is_available():
        return [f"on cuda    {_choice('cuda')}; no device here (PyTorch {torch.__version__})"]
    lines = []
    for index in range(torch.cuda.device_count()):
        architecture = ".".join(map(str, torch.cuda.get_device_capability(index)))
        name = f"{torch.cuda.get_device_name(index)}, architecture {architecture}"
        problem = cuda_problem(index) if built_for("cuda") else None
        lines.append(f"on cuda:{index}  {_choice('cuda', index)} ({name})")
        lines += [f"           {problem}"] if problem else []
    return lines


def report() -> str:
    """What is built, for which architectures, and what runs on each device, as text."""
    reason = load()
    lines = [f"operators  {reason or library_path()}"]
    if reason is None:
        built = [device for device in ("cpu", "cuda") if built_for(device)]
        lines.append(f"built for  {', '.join(built)}")
        lines += [f"built with {name} {value}" for name, value in _build_info().items()]
        lines.append(f"cpu        runs the {cpu_capability()} kernels")
    lines.append(f"backend    {_current} (DDGAN_OPS, or ddgan.ops.backend())")
    lines += [f"on cpu     {_choice('cpu')}", *_gpu_lines()]
    return "\n".join(lines)


# Derivatives. All private names of torch in this package are below; tests/ops fails if they move.


def differentiable(
    name: str, fake: Callable, setup: Callable, backward: Callable, jvp: Callable
) -> None:
    """Declare an operator's shapes and its derivatives, registered when the library loads.

    ``fake``, ``setup`` and ``backward`` are those of ``torch.library.register_fake`` and
    ``register_autograd``; backward is called when at least one gradient is not None, and None
    stands for zero. ``jvp(inputs, outputs, tangents)`` gives the tangent of each output; tangents
    of tensors may be None for zero. It is made of differentiable operations.
    """
    _derivatives[name] = (fake, setup, backward, jvp)


def forward_mode() -> bool:
    """Whether forward-mode derivatives are being taken, by duals or by ``torch.func.jvp``."""
    return forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled()


def transformed() -> bool:
    """Whether tensors may have derivatives that ``requires_grad`` does not show.

    Tangents, and the outer ones of nested transforms of ``torch.func``.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


@contextmanager
def _modes(reverse: bool, forward: bool) -> Iterator[None]:
    """Allow derivatives of both modes or not."""
    with torch.set_grad_enabled(reverse), forward_ad._set_fwd_grad_enabled(forward):
        yield


def _primal(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else forward_ad.unpack_dual(tensor).primal


def _has_kernel(operator: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(operator, key)


@cache
def _fragment() -> torch.library.Library:
    return torch.library.Library("ddgan", "FRAGMENT")


def _register_autograd(name: str, setup: Callable, backward: Callable, jvp: Callable) -> None:
    """Do what ``torch.library.register_autograd`` does in half its time, and forward mode.

    That inspects the schema in every call, for 30 to 70 µs: more than a small tensor takes. It
    gives no tangents, and an error under the transforms of ``torch.func``.
    """
    from torch._functorch.utils import enable_single_level_autograd_function
    from torch.autograd.function import _SingleLevelFunction

    op = getattr(kernels, name).default

    def run(keyset: torch._C.DispatchKeySet, inputs: Sequence[Any]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)

    # Like PyTorch's own operators, it differentiates at one level of torch.func's transforms, and
    # the dispatcher calls it again for the next level, which needs the caller's modes.
    class Derivative(_SingleLevelFunction):
        @staticmethod
        def forward(ctx, *inputs_and_call):
            *inputs, (keyset, modes) = inputs_and_call
            with _modes(*modes) if modes else nullcontext():
                output = run(keyset, inputs)
            ctx.set_materialize_grads(False)
            setup(ctx, inputs, output)
            if forward_ad._current_level >= 0:
                outputs = output if isinstance(output, tuple) else (output,)
                tensors = [value if isinstance(value, Tensor) else None for value in inputs]
                ctx.save_for_forward(*tensors, *outputs)
                ctx.others = [None if isinstance(value, Tensor) else value for value in inputs]
            return output

        @staticmethod
        def backward(ctx, *grads):
            if all(grad is None for grad in grads):
                return (None,) * len(ctx.needs_input_grad)
            return (*backward(ctx, *grads), None)

        @staticmethod
        def jvp(ctx, *tangents):
            count = len(ctx.others)
            with forward_ad._set_fwd_grad_enabled(True):  # for the outer levels
                saved = [_primal(tensor) for tensor in ctx.saved_tensors]
                inputs = [b if a is None else a for a, b in zip(ctx.others, saved, strict=False)]
                return jvp(inputs, saved[count:], tangents[:count])

    def kernel(keyset, *inputs):
        wanted = torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs)
        if not wanted and not forward_mode():
            return run(keyset, inputs)
        if not torch._C._are_functorch_transforms_active():
            return Derivative.apply(*inputs, (keyset, None))
        modes = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
        with enable_single_level_autograd_function():
            return Derivative.apply(*inputs, (keyset, modes))

    _fragment().impl(name, kernel, "Autograd", with_keyset=True)


def gradients_wanted(ctx: Any) -> list[bool]:
    """Whether the running backward uses the gradient of each tensor among the inputs.

    ``ctx.needs_input_grad`` is also true for weights while ``autograd.grad`` asks for the images'
    gradient alone, as R1 does.
    """

    def runs(node: Any) -> bool:
        try:
            return node is not None and torch._C._will_engine_execute_node(node)
        except RuntimeError:  # a leaf whose gradient autograd.grad returns
            return True

    return [runs(node) for node, _ in ctx.next_functions]


# Layouts and empty results, for shape inference.


def channels_last(x: Tensor) -> bool:
    """Whether the kernels read ``x`` as (N, H, W, C); csrc/bindings.cpp has the same rule."""
    return x.ndim == 4 and not x.is_contiguous() and x.stride(1) == 1 and x.stride(3) >= x.size(1)


def layout_of(x: Tensor) -> torch.memory_format:
    """The memory format that results have for an input ``x``."""
    return torch.channels_last if channels_last(x) else torch.contiguous_format


def empty_like(x: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """An empty result in the dtype and layout of ``x``."""
    size = x.shape if shape is None else shape
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


def empty_sums(x: Tensor, *shape: int) -> Tensor:
    """An empty result of sums over ``x``, in the dtype that they accumulate in."""
    return torch.empty(shape, dtype=accumulation_dtype(x), device=x.device)


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32

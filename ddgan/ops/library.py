"""Finds and loads the compiled operators; nothing is ever compiled here."""

import ctypes
import importlib
from functools import cache
from pathlib import Path

import torch

HOW_TO_BUILD = "build them with `python setup.py build_ext --inplace` or `pip install -e .`"
# An operator that a library built from older sources does not have.
_NEWEST = "conv3x3_weight"
_FILES = tuple(sorted(Path(__file__).parent.glob("_ops*.so")))


@cache
def load() -> str | None:
    """Load the operators once; return None, or why there are none."""
    if not _FILES:
        return f"the compiled operators are not built; {HOW_TO_BUILD}"
    try:
        torch.ops.load_library(_FILES[0])
    except OSError as error:
        problem = f"{_FILES[0].name} does not load into PyTorch {torch.__version__}: {error}"
        return f"{problem}; {HOW_TO_BUILD}"
    if not hasattr(torch.ops.ddgan, _NEWEST):
        return f"{_FILES[0].name} was built from older sources; {HOW_TO_BUILD}"
    return None


def built_for(device: str) -> bool:
    """Whether the loaded library implements the operators on ``"cpu"`` or ``"cuda"``."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return load() is None and has_kernel("ddgan::upfirdn2d", device.upper())


def cpu_capability() -> str:
    """The instruction set that the CPU kernels use here: baseline, avx2 or avx512."""
    function = ctypes.CDLL(str(_FILES[0])).ddgan_cpu_capability
    function.restype = ctypes.c_char_p
    return function().decode()


def path() -> Path | None:
    """Return the library's file, or None where there is none."""
    return _FILES[0] if _FILES else None


def build_info() -> dict[str, str]:
    """How the library was built (compilers, architectures); empty where that was not recorded."""
    try:
        return dict(importlib.import_module("ddgan.ops._build_info").info())
    except ImportError:
        return {}

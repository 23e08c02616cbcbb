"""Chooses who computes an operation: the compiled CPU or CUDA kernels, or the reference."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ddgan.ops import library

BACKENDS = ("auto", "torch", "cpu", "cuda")

_built = {device: library.built_for(device) for device in ("cpu", "cuda")}


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}; expected one of {', '.join(BACKENDS)}")
    if not _built.get(name, True):
        reason = library.load() or f"the library was built without {name}"
        hint = "" if library.load() else f"; {library.HOW_TO_BUILD}"
        if name == "cuda":
            hint += " with DDGAN_CUDA=1 and nvcc on the PATH"
        raise RuntimeError(f"{source} asks for the {name!r} operators, but {reason}{hint}")
    return name


_current = _checked(os.environ.get("DDGAN_OPS", "auto").lower() or "auto", "DDGAN_OPS")

if _current == "auto" and not _built["cpu"]:
    logging.getLogger(__name__).warning("ddgan.ops runs on plain PyTorch: %s", library.load())


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Use one backend inside the ``with`` block, in every thread: auto, torch, cpu or cuda.

    ``"torch"`` is the plain PyTorch reference; ``"auto"`` takes the compiled operator where one is
    built for the tensor's device and the reference elsewhere. Raises ValueError for an unknown
    name and RuntimeError for a backend that is not built.
    """
    global _current
    previous, _current = _current, _checked(name, "ddgan.ops.backend()")
    try:
        yield
    finally:
        _current = previous


def current_backend() -> str:
    """Return the backend asked for: auto, torch, cpu or cuda."""
    return _current


def compiled(x: Tensor) -> bool:
    """Whether the compiled operators compute on ``x``."""
    if _current == "torch":
        return False
    kind = x.device.type
    if _current != "auto" and kind != _current:
        raise RuntimeError(
            f"the {_current!r} operators were asked for, but the tensor is on {x.device}; "
            "use backend 'auto' or move the tensor"
        )
    return _built.get(kind, False) and x.is_floating_point()

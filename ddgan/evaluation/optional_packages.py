"""Packages that only some metrics need, imported at first use."""

import importlib
import importlib.metadata
import sys
from types import ModuleType

import torch

from ddgan.errors import UserError

# Owns the declarations below: torch drops them together with this object.
_TORCHVISION_OPERATORS: list[torch.library.Library] = []


def import_torch_fidelity() -> ModuleType:
    """Import torch-fidelity's registry; raises UserError if the package is not installed."""
    _import_torchvision("eval")
    _import("torch_fidelity", "torch-fidelity", "eval")
    return importlib.import_module("torch_fidelity.registry")


def import_timm() -> ModuleType:
    """Import timm; raises UserError if it is not installed."""
    _import_torchvision("timm")
    return _import("timm", "timm", "timm")


def torch_fidelity_version() -> str:
    """The version of torch-fidelity, without importing it; raises UserError if missing."""
    try:
        return importlib.metadata.version("torch-fidelity")
    except importlib.metadata.PackageNotFoundError:
        raise _missing("torch-fidelity", "eval") from None


def _import(module: str, package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise _missing(package, extra) from None


def _missing(package: str, extra: str) -> UserError:
    return UserError(
        f"{package} is not installed, and this metric needs it; "
        f"pip install 'ddgan[{extra}]', or {package} itself"
    )


def _import_torchvision(extra: str) -> None:
    """Import torchvision even if its compiled part does not fit torch.

    A torchvision built for CUDA cannot load its operators with a CPU build of torch, and fails when
    it describes them. Declaring the two operators it looks for lets it load; they cannot be called,
    and nothing here calls them.
    """
    try:
        _import("torchvision", "torchvision", extra)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in ("nms", "qnms"):
            library.define(operator + boxes)
        _TORCHVISION_OPERATORS.append(library)
        importlib.import_module("torchvision")

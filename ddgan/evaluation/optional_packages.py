"""Packages that only some metrics need, imported when they are used."""

import importlib
import importlib.metadata
import sys
from types import ModuleType

import torch

from ddgan.errors import UserError

# What the declarations below belong to; torch forgets them with the object.
_TORCHVISION_OPERATORS: list[torch.library.Library] = []


def import_torch_fidelity() -> ModuleType:
    """Return torch-fidelity with its registry; raises UserError if it is not installed."""
    _import_torchvision("eval")
    _import("torch_fidelity", "torch-fidelity", "eval")
    return importlib.import_module("torch_fidelity.registry")


def import_timm() -> ModuleType:
    """Return timm; raises UserError if it is not installed."""
    _import_torchvision("timm")
    return _import("timm", "timm", "timm")


def torch_fidelity_version() -> str:
    """Return the version of torch-fidelity, without importing it; raises UserError if missing."""
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
    """Import torchvision, also where its compiled part does not fit torch.

    A torchvision built for CUDA cannot load its operators beside a torch for the CPU, and then
    fails when it describes them. Declaring the two that it looks for lets it load; they cannot be
    called then, and nothing here calls them.
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

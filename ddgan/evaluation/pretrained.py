"""Pretrained networks: the packages that build them, imported at first use, and their weights."""

import hashlib
import importlib
import importlib.metadata
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from types import ModuleType

import torch
from mmengine.logging import print_log
from safetensors.torch import load_file
from torch import Tensor, nn

from ddgan.errors import CheckpointError, UserError
from ddgan.evaluation.cache import cache_root
from ddgan.utils.files import check_not_a_page, file_sha256, refusal

_TIMEOUT_S = 30
# Owns the declarations below: torch drops them together with this object.
_TORCHVISION_OPERATORS: list[torch.library.Library] = []


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights as its authors publish it: its address and SHA-256."""

    url: str
    sha256: str

    @property
    def file(self) -> str:
        """The name of the file, also in the cache."""
        return self.url.rsplit("/", 1)[-1]

    def find(self, path: str | Path | None = None) -> tuple[Path, str]:
        """The file and its SHA-256: ``path``, or the one in the cache, or a download into it.

        A file named by ``path`` is taken as it is, with a warning if it is not the published one.
        The cache is ``$DDGAN_CACHE/weights`` or ``~/.cache/ddgan/weights``; a file there must have
        the right digest. Raises UserError if the weights can be had from nowhere.
        """
        if path is not None:
            digest = weights_digest(path)
            if digest != self.sha256:
                _warn(
                    f"{path} has the SHA-256 {digest}, not that of {self.file} ({self.sha256}); "
                    "values measured with it do not compare with published ones"
                )
            return Path(path), digest
        cached = cache_root() / "weights" / self.file
        if cached.is_file():
            if (digest := weights_digest(cached)) == self.sha256:
                return cached, digest
            _warn(
                f"{cached} is damaged (SHA-256 {digest}, expected {self.sha256}) and is downloaded "
                "again"
            )
        self._download(cached)
        return cached, self.sha256

    def _download(self, target: Path) -> None:
        print_log(f"downloading {self.file} from {self.url} to {target.parent}", "current")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _socket_timeout(_TIMEOUT_S):
                torch.hub.download_url_to_file(self.url, str(target), hash_prefix=self.sha256)
        # A wrong digest is a RuntimeError.
        except (OSError, HTTPException, RuntimeError) as error:
            raise UserError(
                f"{self.file} cannot be downloaded from {self.url}: {error}. On a computer that "
                f"can, download it, check that its SHA-256 is {self.sha256}, and put it at "
                f"{target}, or name the file in the extractor's argument 'weights'"
            ) from None


def _warn(text: str) -> None:
    print_log(text, "current", logging.WARNING)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def weights_digest(path: str | Path) -> str:
    """The SHA-256 of a file; raises UserError if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"weights {str(path)!r} cannot be read: {error.strerror}") from None


def parameters_digest(module: nn.Module) -> str:
    """A SHA-256 of the names, types, shapes and values of a module's tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            content = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(content.numpy().data)
    return digest.hexdigest()


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file by name; no code in it is executed.

    Raises CheckpointError for a file that is damaged, or holds anything but a dict of tensors.
    """
    try:
        check_not_a_page(Path(path))
        if Path(path).suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    # torch raises nearly anything on damaged files, IndexError and AssertionError for instance.
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a file of weights: {refusal(error)}"
        ) from None
    is_state = isinstance(state, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    )
    if not is_state:
        raise CheckpointError(f"{path} does not hold a dict of tensors, as a file of weights does")
    return dict(state)


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

"""Weights of feature extractors: a local file, a checked one in the cache, or a download."""

import hashlib
import logging
import os
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from mmengine.logging import print_log
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from safetensors.torch import load_file
from torch import Tensor, nn

from ddgan.errors import CheckpointError, UserError
from ddgan.evaluation.stored_tensors import cache_root

_CHUNK = 2**20
_TIMEOUT_S = 30


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights as its authors publish it: its name, address and SHA-256."""

    file: str
    url: str
    sha256: str

    def find(self, path: str | Path | None = None) -> tuple[Path, str]:
        """Return the file and its SHA-256: ``path``, or the one in the cache, or downloaded there.

        A file named by ``path`` is taken as it is, with a warning if it is not the published one;
        in the cache, ``$DDGAN_CACHE/weights`` or ``~/.cache/ddgan/weights``, the digest has to be
        right. Raises UserError if there is none to be had.
        """
        if path is not None:
            digest = file_digest(path)
            if digest != self.sha256:
                print_log(
                    f"{path} has the SHA-256 {digest}, not that of {self.file} ({self.sha256}); "
                    "what is measured with it does not compare with published values",
                    "current",
                    logging.WARNING,
                )
            return Path(path), digest
        cached = weights_folder() / self.file
        if cached.is_file():
            digest = file_digest(cached)
            if digest == self.sha256:
                return cached, digest
            print_log(
                f"{cached} is damaged (SHA-256 {digest}, expected {self.sha256}) and is downloaded "
                "again",
                "current",
                logging.WARNING,
            )
        self._download(cached)
        return cached, self.sha256

    def _download(self, target: Path) -> None:
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = _fetch(self.url, part)
            if digest != self.sha256:
                raise UserError(
                    f"{self.url} has the SHA-256 {digest}, expected {self.sha256}: it is not what "
                    f"was published, or the transfer failed. {self._way_out(target)}"
                )
            os.replace(part, target)
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise UserError(
                f"{self.file} cannot be downloaded from {self.url} ({reason}). "
                f"{self._way_out(target)}"
            ) from None
        finally:
            with suppress(OSError):
                part.unlink()

    def _way_out(self, target: Path) -> str:
        return (
            f"On a computer that can, download it, check that its SHA-256 is {self.sha256}, and "
            f"put it at {target}, or name the file in the extractor's argument 'weights'"
        )


def weights_folder() -> Path:
    """Return the folder of downloaded weights."""
    return cache_root() / "weights"


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file; raises UserError if there is none."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"weights {str(path)!r} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def parameters_digest(module: nn.Module) -> str:
    """Return a SHA-256 of the names, types, shapes and values of the tensors of a module."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            content = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(content.numpy().data)
    return digest.hexdigest()


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or torch file by name; no code in it is executed.

    Raises CheckpointError for a file that is damaged, or holds anything but a dict of tensors.
    """
    try:
        if Path(path).suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    # torch raises nearly anything on damaged files, IndexError and AssertionError for instance.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a file of weights: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} does not hold a dict of tensors, as a file of weights does")
    return dict(state)


def _fetch(url: str, target: Path) -> str:
    """Write what is at ``url`` to a file, showing progress, and return its SHA-256."""
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn()]
    digest = hashlib.sha256()
    with (
        urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response,
        open(target, "wb") as file,
        Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as progress,
    ):
        length = response.headers.get("Content-Length")
        name = url.rsplit("/", 1)[-1]
        task = progress.add_task(f"downloading {name}", total=int(length) if length else None)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            progress.advance(task, len(chunk))
    return digest.hexdigest()

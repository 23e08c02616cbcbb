"""Files of tensors that are computed anew where they cannot be trusted; reading runs no code."""

import json
import logging
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def cache_root() -> Path:
    """Return the folder of what is kept between runs: DDGAN_CACHE, or one in the user's cache."""
    if chosen := os.environ.get("DDGAN_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddgan"


def features_root(checkpoint: str | Path) -> Path:
    """Return where features of a checkpoint's samples are kept: DDGAN_CACHE, or beside it."""
    if chosen := os.environ.get("DDGAN_CACHE"):
        return Path(chosen) / "samples"
    return Path(checkpoint).parent / "features"


def load_tensors(path: Path, identity: Mapping[str, Any]) -> Tensors | None:
    """Return the tensors that ``save_tensors`` wrote for ``identity``, None if there are none.

    A file that is damaged or of another identity is named in the log and counts as missing.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("identity") != _text(identity):
                raise ValueError("it is of other settings")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not tensors or metadata.get("sum") != _sum(tensors):
            raise ValueError("its content is not what was written")
    except (SafetensorError, OSError, ValueError) as error:
        print_log(
            f"{path} cannot be used, and is computed anew: {error}", "current", logging.WARNING
        )
        return None
    return tensors


def save_tensors(path: Path, tensors: Tensors, identity: Mapping[str, Any]) -> bool:
    """Write tensors on the CPU in one step; where that fails, say so in the log, return False."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata={"identity": _text(identity), "sum": _sum(tensors)})
        os.replace(temporary, path)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            temporary.unlink()
        print_log(
            f"{path} cannot be written ({error}), so this is computed again the next time; free "
            "space, or set DDGAN_CACHE to another folder",
            "current",
            logging.WARNING,
        )
        return False
    return True


def _text(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)


def _sum(tensors: Tensors) -> str:
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.numpy().data, value)
    return str(value)

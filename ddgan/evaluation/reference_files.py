"""Statistics and features of real images as .npz files that others write and read, too."""

import hashlib
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddgan.errors import UserError
from ddgan.evaluation.frechet import FeatureStatistics
from ddgan.evaluation.real_data import Reference

_TEXT = 1000
# Features of 50,000 images are 0.8 GB at most, and a compressed file can claim any size.
_MAX_BYTES = 1 << 32


def read_reference(path: str | Path, feature_dim: int, extractor: dict[str, Any]) -> Reference:
    """Return the statistics, and features if any, of a .npz file; nothing in it is executed.

    The keys are ``mu`` (D,) and ``sigma`` (D, D), as pytorch-fid has them, and optionally
    ``features`` (N, D), ``num``, ``source``, and ``extractor`` with the name and digest that
    ``write_reference`` gave. Raises UserError if the file is missing or damaged, of another shape
    than the extractor's ``feature_dim``, or of another extractor.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--real {path} does not exist; expected a .npz file with mu and sigma")
    try:
        arrays = _read_arrays(path)
    # Damaged archives make zipfile, zlib and numpy raise nearly anything.
    except Exception as error:
        raise UserError(
            f"--real {path} is damaged or not a .npz file of numbers: {error}"
        ) from None
    found = {key: value.shape for key, value in arrays.items()}
    square = {"mu": (feature_dim,), "sigma": (feature_dim, feature_dim)}
    if {key: found.get(key) for key in square} != square:
        raise UserError(
            f"--real {path} has arrays {found}; expected {square}, for {extractor['name']}"
        )
    if "extractor" in arrays and str(arrays["extractor"]) != _name(extractor):
        raise UserError(
            f"--real {path} is of the extractor {arrays['extractor']}; the metric has "
            f"{_name(extractor)}"
        )
    features = arrays.get("features")
    if features is not None and features.shape[1:] != (feature_dim,):
        raise UserError(f"--real {path} has features {features.shape}; expected (N, {feature_dim})")
    num = _number(arrays["num"], path) if "num" in arrays else 0
    source = {"file": path.name, "digest": hashlib.sha256(path.read_bytes()).hexdigest()}
    if num:
        source["num"] = num
    if "source" in arrays:
        source["name"] = str(arrays["source"])
    mean, cov = (torch.from_numpy(arrays[key].astype(np.float64)) for key in ("mu", "sigma"))
    return Reference(
        num,
        source,
        {None: FeatureStatistics(mean, cov, num)},
        None if features is None else torch.from_numpy(features.astype(np.float32)),
    )


def write_reference(path: str | Path, reference: Reference, extractor: dict[str, Any]) -> None:
    """Write a reference in the form that ``read_reference`` and pytorch-fid read, in one step."""
    path = Path(path)
    statistics = max(reference.statistics.values(), key=lambda one: one.num)
    arrays = {
        "mu": statistics.mean.numpy(),
        "sigma": statistics.cov.numpy(),
        "num": np.array(statistics.num),
        "source": np.array(str(reference.source.get("name", reference.source.get("file")))),
        "extractor": np.array(_name(extractor)),
    }
    if reference.features is not None:
        arrays["features"] = reference.features.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _name(extractor: dict[str, Any]) -> str:
    return f"{extractor['name']} {extractor['digest']}"


def _number(array: np.ndarray, path: Path) -> int:
    if array.shape != () or array.dtype.kind not in "iu":
        raise UserError(
            f"--real {path} has {array.dtype} {array.shape} as num; expected a whole number"
        )
    return int(array)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
        if size > _MAX_BYTES:
            raise ValueError(f"it unpacks to {size} bytes, over the limit of {_MAX_BYTES}")
        return {Path(name).stem: _read_array(archive, name) for name in archive.namelist()}


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return one array of numbers or a short text; sizes are compared before memory is taken."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} is of the npy format {version}")
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
        shape, in_columns, dtype = read(file)
        if dtype.kind not in "fiuU" or (dtype.kind == "U" and dtype.itemsize > 4 * _TEXT):
            raise ValueError(f"{name} has the dtype {dtype}")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size > archive.getinfo(name).file_size:
            raise ValueError(f"{name} claims {shape} numbers, more than it holds")
        array = np.frombuffer(file.read(size), dtype=dtype)
    return array.reshape(shape, order="F" if in_columns else "C")

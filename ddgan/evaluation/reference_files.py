"""Statistics of real images in files: of this project, and as others publish them."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from ddgan.errors import UserError
from ddgan.evaluation.frechet import FeatureStatistics
from ddgan.evaluation.reference import Reference
from ddgan.utils.files import check_archive, file_sha256, refusal, write_atomically
from ddgan.utils.pickled_arrays import ArrayUnpickler, PickledArray

# Features of 50,000 images are 0.8 GB at most, and a compressed file can claim any size.
_MAX_BYTES = 1 << 32
_KEYS = ("mu", "sigma", "features", "num", "source", "extractor")
_CONVERT = (
    "if you trust where it is from (a pickle can run any code), convert it with: python -c "
    "\"import pickle, numpy; s = pickle.load(open('{0}', 'rb')); s = s.get('fid', s); "
    "numpy.savez('{0}.npz', mu=s['mu'], sigma=s['sigma'])\""
)


def read_reference(path: str | Path, feature_dim: int, extractor: dict[str, Any]) -> Reference:
    """Read statistics, and features if any, of a file; no code in it is executed.

    The keys are ``mu`` (D,) and ``sigma`` (D, D), and in files of ``write_reference`` also
    ``features`` (N, D), ``num``, ``source``, and ``extractor`` with its name and digest; others are
    ignored. Forms: .npz (this project, pytorch-fid, EDM, ADM), .npy with a pickled dict (the
    release of DDGAN), .pt (torch-fidelity's cache). Raises UserError if the file is missing,
    damaged or of another kind, if values are not finite or have other shapes than the extractor's
    ``feature_dim`` says, and if it belongs to another extractor.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--real {path} does not exist; expected a file with mu and sigma")
    try:
        arrays = _read_arrays(path)
        _check(arrays, feature_dim, extractor)
    except UserError as error:
        raise UserError(f"--real {path} {error}") from None
    # Damaged archives and pickles make their readers raise nearly anything.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"--real {path} cannot be read: {error.strerror}") from None
        raise UserError(
            f"--real {path} is damaged or not a file of statistics ({refusal(error)}); expected "
            "mu and sigma in a .npz, as --export-real writes it, or get the file again"
        ) from None
    num = int(arrays.get("num", 0))
    source = {"file": path.name, "digest": file_sha256(path)}
    if num:
        source["num"] = num
    if "source" in arrays:
        source["name"] = str(arrays["source"])
    mean, cov = (torch.from_numpy(arrays[key].astype(np.float64)) for key in ("mu", "sigma"))
    features = arrays.get("features")
    if features is not None:
        features = torch.from_numpy(features.astype(np.float32))
    return Reference(num, source, FeatureStatistics(mean, cov, num), features)


def write_reference(path: str | Path, reference: Reference, extractor: dict[str, Any]) -> None:
    """Write a file that ``read_reference`` and pytorch-fid read, in one step."""
    statistics = reference.statistics
    arrays = {
        "mu": statistics.mean.numpy(),
        "sigma": statistics.cov.numpy(),
        "num": np.array(statistics.num),
        "source": np.array(str(reference.source.get("name", reference.source.get("file")))),
        "extractor": np.array(_name(extractor)),
    }
    if reference.features is not None:
        arrays["features"] = reference.features.numpy()

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **arrays)

    write_atomically(path, write)


def _name(extractor: dict[str, Any]) -> str:
    return f"{extractor['name']} {extractor['digest']}"


def _check(arrays: dict[str, np.ndarray], dim: int, extractor: dict[str, Any]) -> None:
    found = {key: value.shape for key, value in arrays.items()}
    expected = {"mu": (dim,), "sigma": (dim, dim)}
    if "features" in found:
        expected["features"] = (*found["features"][:1], dim)
    if {key: found.get(key) for key in expected} != expected:
        raise UserError(f"has arrays {found}; expected {expected}, for {extractor['name']}")
    for key in expected:
        if arrays[key].dtype.kind not in "fiu":
            raise UserError(f"has {key} of type {arrays[key].dtype}; expected real numbers")
        if not np.isfinite(arrays[key]).all():
            raise UserError(f"has values in {key} that are not finite; get or compute it again")
    for key in ("source", "extractor"):
        if key in arrays and not (arrays[key].shape == () and str(arrays[key]).isprintable()):
            raise UserError(f"has a {key} that is not one line of text")
    if "extractor" in arrays and str(arrays["extractor"]) != _name(extractor):
        raise UserError(
            f"is of the extractor {arrays['extractor']}; the metric has {_name(extractor)}"
        )
    num = arrays.get("num", np.array(0))
    if num.shape != () or num.dtype.kind not in "iu":
        raise UserError(f"has {num.dtype} {num.shape} as num; expected a whole number")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of ``_KEYS``; UserError with the end of a sentence for other kinds of file."""
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(npy.MAGIC_PREFIX):
        return _of_dict(_read_pickled_npy(path))
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            parts = {part.filename: part.file_size for part in archive.infolist()}
        if any(name.endswith("/data.pkl") for name in parts):
            return _of_dict(_read_torch(path))
        return _read_npz(path, parts)
    if start.startswith(b"\x80"):
        raise UserError(f"is a pickle, which is not opened: {_CONVERT.format(path)}")
    raise ValueError(f"it begins with {start!r}")


def _read_npz(path: Path, parts: Mapping[str, int]) -> dict[str, np.ndarray]:
    wanted = {key: parts[f"{key}.npy"] for key in _KEYS if f"{key}.npy" in parts}
    if (size := sum(wanted.values())) > _MAX_BYTES:
        raise ValueError(f"it unpacks to {size} bytes, over the limit of {_MAX_BYTES}")
    if "arr_0.npy" in parts and "mu" not in wanted:
        raise UserError(
            "holds images (arr_0) and no statistics: save them as files, name the folder as "
            "evaluation_dataset in the config, and leave --real out"
        )
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in wanted}


def _read_pickled_npy(path: Path) -> object:
    with path.open("rb") as file:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if not dtype.hasobject:
            raise UserError(
                f"holds one array {dtype} {shape}; expected a dict with mu and sigma, or a .npz"
            )
        content = ArrayUnpickler(file.read()).load()
    values = content.values.ravel() if isinstance(content, PickledArray) else []
    return values[0] if len(values) == 1 else None


def _read_torch(path: Path) -> object:
    check_archive(path)
    numpy_types = [
        np._core.multiarray._reconstruct, np.ndarray, np.dtype, np.dtypes.Float64DType,
        np.dtypes.Float32DType,
    ]  # fmt: skip
    with torch.serialization.safe_globals(numpy_types):
        return torch.load(path, map_location="cpu", weights_only=True)


def _of_dict(content: object) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        raise UserError(f"holds a {type(content).__name__}; expected a dict with mu and sigma")
    found = {}
    for key in ("mu", "sigma"):
        value = content.get(key)
        value = value.values if isinstance(value, PickledArray) else value
        if not isinstance(value, (np.ndarray, Tensor)):
            raise UserError(f"has keys {sorted(map(str, content))[:9]}; expected mu and sigma")
        found[key] = np.asarray(value)
    return found

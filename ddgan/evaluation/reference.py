"""Reference sets: features and statistics of real images, of a data set or of a .npz file."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, is_main_process
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ddgan.data.workers import reader_context
from ddgan.errors import UserError
from ddgan.evaluation.cache import ShardCache, key_of, load_tensors, save_tensors
from ddgan.evaluation.extractors import EXTRACTOR_BATCH, extract
from ddgan.evaluation.features import (
    SHARD_SIZE,
    Progress,
    in_order,
    no_progress,
    own_shards,
    shard_length,
)
from ddgan.evaluation.frechet import FeatureStatistics, StatisticsAccumulator
from ddgan.utils.files import file_sha256, write_atomically

# Real images are taken in one fixed random order, so that the first N are a fair choice.
_ORDER_SEED = 0
# Features of 50,000 images are 0.8 GB at most, and a compressed file can claim any size.
_MAX_BYTES = 1 << 32


@dataclass
class Reference:
    """What samples are compared with: ``num`` real images (0 if unknown) of ``source``.

    ``statistics`` are those of all images, ``features`` (N, D) those of the first N in a fixed
    random order; either is None where no metric asked for it.
    """

    num: int
    source: dict[str, Any]
    statistics: FeatureStatistics | None = None
    features: Tensor | None = None


def dataset_reference(
    dataset: Dataset,
    extractor: nn.Module,
    extractor_identity: dict[str, Any],
    statistics: bool,
    num_features: int,
    root: Path | None,
    num_workers: int = 0,
    progress: Progress = no_progress,
) -> Reference:
    """Compute statistics of all images and features of ``num_features``; all processes share it.

    The main process has the result. It is kept below ``root`` (None: nowhere) under a key of data
    set, digest, pipeline, extractor and weights.
    """
    source = {
        "name": dataset.name,
        "num": len(dataset),
        "shape": list(dataset.image_shape),
        "digest": dataset.digest(),
    }
    identity = {"real": source, "order": _ORDER_SEED, **extractor_identity}
    reference = Reference(len(dataset), source)
    cache = ShardCache(root, identity)
    missing = [statistics]
    if is_main_process() and statistics:
        reference.statistics = _load_statistics(root, identity)
        missing = [reference.statistics is None]
    # Processes on other machines may not see the same files.
    broadcast_object_list(missing)
    total = len(dataset) if missing[0] else num_features
    total = len(dataset) if missing[0] else num_features
    accumulator, kept = StatisticsAccumulator(), []
    for features in _real_features(dataset, extractor, total, cache, num_workers, progress):
        if missing[0]:
            accumulator.add(features)
        if len(kept) * SHARD_SIZE < num_features:
            kept.append(features)
    if is_main_process():
        if missing[0]:
            reference.statistics = accumulator.statistics()
            _save_statistics(root, identity, reference.statistics)
        if num_features:
            reference.features = torch.cat(kept)[:num_features]
        # Drop cached features that only statistics needed.
        cache.keep(len(kept))
    return reference


def _real_features(
    dataset: Dataset,
    extractor: nn.Module,
    total: int,
    cache: ShardCache,
    num_workers: int,
    progress: Progress,
) -> Iterator[Tensor]:
    """Yield the features (N, D) of ``total`` images, shard by shard, on the main process."""
    if total == 0:
        return
    own = own_shards(total)
    found = {shard: cache.read(shard, shard_length(total, shard)) for shard in own}
    generator = torch.Generator().manual_seed(_ORDER_SEED)
    order = torch.randperm(len(dataset), generator=generator)[:total].split(SHARD_SIZE)
    batches = [
        batch.tolist()
        for shard, tensors in found.items()
        if tensors is None
        for batch in order[shard].split(EXTRACTOR_BATCH)
    ]
    # With all features at hand, workers would have nothing to do.
    workers = num_workers if batches else 0
    images = iter(
        DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_stack,
            multiprocessing_context=reader_context(workers),
        )
    )
    device = next((p.device for p in extractor.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def compute(shard: int) -> Tensor:
        tensors = found.pop(shard)
        if tensors is None:
            parts = []
            for batch in order[shard].split(EXTRACTOR_BATCH):
                parts.append(extract(extractor, next(images).to(device))["features"])
                advance(len(batch))
            tensors = {"features": torch.cat(parts)}
            cache.write(shard, tensors)
        else:
            advance(shard_length(total, shard))
        return tensors["features"]

    with progress("real data", sum(shard_length(total, shard) for shard in own)) as advance:
        yield from in_order(total, compute)


def _stack(items: list[dict[str, Any]]) -> Tensor:
    return torch.stack([item["x"] for item in items])


def _statistics_file(root: Path, identity: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    identity = {**identity, "statistics": identity["real"]["num"]}
    return root / "statistics" / f"{key_of(identity)}.safetensors", identity


def _load_statistics(root: Path | None, identity: dict[str, Any]) -> FeatureStatistics | None:
    tensors = load_tensors(*_statistics_file(root, identity)) if root else None
    if tensors is None:
        return None
    return FeatureStatistics(tensors["mean"], tensors["cov"], identity["real"]["num"])


def _save_statistics(
    root: Path | None, identity: dict[str, Any], statistics: FeatureStatistics
) -> None:
    if root:
        path, identity = _statistics_file(root, identity)
        save_tensors(path, {"mean": statistics.mean, "cov": statistics.cov}, identity)


def read_reference(path: str | Path, feature_dim: int, extractor: dict[str, Any]) -> Reference:
    """Read statistics, and features if any, of a .npz file; no code in it is executed.

    The keys are ``mu`` (D,) and ``sigma`` (D, D), as in pytorch-fid's files, and optionally
    ``features`` (N, D), ``num``, ``source``, and ``extractor`` with the name and digest that
    ``write_reference`` gave. Raises UserError if the file is missing or damaged, has another shape
    than the extractor's ``feature_dim``, or belongs to another extractor.
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
    expected = {"mu": (feature_dim,), "sigma": (feature_dim, feature_dim)}
    if "features" in found:
        expected["features"] = (*found["features"][:1], feature_dim)
    if {key: found.get(key) for key in expected} != expected:
        raise UserError(
            f"--real {path} has arrays {found}; expected {expected}, for {extractor['name']}"
        )
    if "extractor" in arrays and str(arrays["extractor"]) != _name(extractor):
        raise UserError(
            f"--real {path} is of the extractor {arrays['extractor']}; the metric has "
            f"{_name(extractor)}"
        )
    num = arrays.get("num", np.array(0))
    if num.shape != () or num.dtype.kind not in "iu":
        raise UserError(
            f"--real {path} has {num.dtype} {num.shape} as num; expected a whole number"
        )
    num = int(num)
    source = {"file": path.name, "digest": file_sha256(path)}
    if num:
        source["num"] = num
    if "source" in arrays:
        source["name"] = str(arrays["source"])
    mean, cov = (torch.from_numpy(arrays[key].astype(np.float64)) for key in ("mu", "sigma"))
    features = arrays.get("features")
    return Reference(
        num,
        source,
        FeatureStatistics(mean, cov, num),
        None if features is None else torch.from_numpy(features.astype(np.float32)),
    )


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


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > _MAX_BYTES:
        raise ValueError(f"it unpacks to {size} bytes, over the limit of {_MAX_BYTES}")
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    if odd := [name for name, value in found.items() if value.dtype.kind not in "fiuU"]:
        raise ValueError(f"{odd} are not numbers or text")
    return found

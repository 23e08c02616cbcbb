"""What metrics compare samples with: features and statistics of real images, computed once."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ddgan.data.workers import reader_context
from ddgan.evaluation.frechet import FeatureStatistics, StatisticsAccumulator
from ddgan.evaluation.sampled_features import EXTRACTOR_BATCH, extract
from ddgan.evaluation.shards import (
    SHARD_SIZE,
    ShardCache,
    in_order,
    key_of,
    num_shards,
    own_shards,
    shard_length,
)
from ddgan.evaluation.stored_tensors import load_tensors, save_tensors

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

# Real images are taken in one fixed random order, so that the first of them are a fair choice.
_ORDER_SEED = 0


@dataclass
class Reference:
    """Statistics by number of images, features (N, D), and where the ``num`` images are from.

    Statistics of a file, whose images are not at hand, have the key None.
    """

    num: int
    source: dict[str, Any]
    statistics: dict[int | None, FeatureStatistics] = field(default_factory=dict)
    features: Tensor | None = None


def no_progress(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Open no progress bar."""
    return nullcontext(lambda count: None)


def data_identity(dataset: Dataset) -> dict[str, Any]:
    """Return what tells a data set, its split and its pipeline from others."""
    return {
        "name": dataset.name,
        "num": len(dataset),
        "shape": list(dataset.image_shape),
        "digest": dataset.digest(),
    }


def real_reference(
    dataset: Dataset,
    extractor: nn.Module,
    extractor_identity: dict[str, Any],
    statistics: set[int],
    num_features: int,
    root: Path | None,
    num_workers: int = 0,
    progress: Progress = no_progress,
) -> Reference:
    """Return what metrics ask for of real images, whole on the main process alone.

    ``statistics`` holds the numbers of images to have statistics of; ``num_features`` is of how
    many the features themselves are needed. Both are of the first images of one fixed random
    order. All processes share the work. What was computed is kept below ``root`` (nothing if
    None) under a key of data set, digest, pipeline, extractor and weights.
    """
    source = data_identity(dataset)
    identity = {"real": source, "order": _ORDER_SEED, **extractor_identity}
    reference = Reference(len(dataset), source)
    if is_main_process():
        reference.statistics = _known_statistics(root, identity, statistics)
    # Processes on other machines may not see the same files.
    missing = _from_main_process(sorted(statistics - reference.statistics.keys()))
    cache = ShardCache(root, identity)
    accumulators = {size: StatisticsAccumulator() for size in missing}
    kept: list[Tensor] = []
    first = 0
    total = max([num_features, *missing])
    for features in real_features(dataset, extractor, total, cache, num_workers, progress):
        for size, accumulator in accumulators.items():
            accumulator.add(features[: max(0, size - first)])
        kept.append(features[: max(0, num_features - first)])
        first += len(features)
    if is_main_process():
        for size, accumulator in accumulators.items():
            reference.statistics[size] = accumulator.statistics()
            _keep_statistics(root, identity, size, reference.statistics[size])
        reference.features = torch.cat(kept) if num_features else None
        # Statistics take the place of features that no metric, of this run or before, asked for.
        cache.remove(first=cache.wanted(num_shards(num_features)))
    return reference


def real_features(
    dataset: Dataset,
    extractor: nn.Module,
    total: int,
    cache: ShardCache,
    num_workers: int = 0,
    progress: Progress = no_progress,
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
    # Where all of them are known, there is nothing for workers to do.
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


def _from_main_process(value: list[int]) -> list[int]:
    box = [value]
    broadcast_object_list(box)
    return box[0]


def _statistics_file(root: Path, identity: dict, size: int) -> tuple[Path, dict]:
    identity = {**identity, "statistics": size}
    return root / "statistics" / f"{key_of(identity)}.safetensors", identity


def _known_statistics(
    root: Path | None, identity: dict, sizes: set[int]
) -> dict[int | None, FeatureStatistics]:
    known: dict[int | None, FeatureStatistics] = {}
    for size in sizes if root is not None else ():
        if tensors := load_tensors(*_statistics_file(root, identity, size)):
            known[size] = FeatureStatistics(tensors["mean"], tensors["cov"], size)
    return known


def _keep_statistics(
    root: Path | None, identity: dict, size: int, statistics: FeatureStatistics
) -> None:
    if root is not None:
        path, identity = _statistics_file(root, identity, size)
        save_tensors(path, {"mean": statistics.mean, "cov": statistics.cov}, identity)

"""Reference sets: features and statistics of the real images of a data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ddgan.data.workers import reader_context
from ddgan.evaluation.cache import ShardCache, key_of, load_tensors, save_tensors
from ddgan.evaluation.extractors import EXTRACTOR_BATCH
from ddgan.evaluation.features import FeatureRequest, Progress, compute_features, no_progress
from ddgan.evaluation.frechet import FeatureStatistics, StatisticsAccumulator

# Real images are taken in one fixed random order, so that the first N are a fair choice.
_ORDER_SEED = 0


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


def source_of(dataset: Dataset) -> dict[str, Any]:
    """What a record says of a data set."""
    shape = list(dataset.image_shape)
    return {
        "name": dataset.name, "num": len(dataset), "shape": shape, "digest": dataset.digest()
    }  # fmt: skip


def dataset_reference(
    dataset: Dataset,
    extractor: nn.Module,
    names: dict[str, str],
    statistics: bool,
    num_features: int,
    root: Path,
    num_workers: int = 0,
    progress: Progress = no_progress,
) -> Reference:
    """Compute statistics of all images and features of ``num_features``; all processes share it.

    The main process has the result. It is kept below ``root`` under a key of data set, digest,
    pipeline, and ``names``, those of the extractor and its weights.
    """
    num = len(dataset)
    reference = Reference(num, source_of(dataset))
    identity = {"real": reference.source, "order": _ORDER_SEED, "extractor": names}
    cache = ShardCache(root, identity)
    identity = {**identity, "statistics": num}
    path = root / "statistics" / f"{key_of(identity)}.safetensors"
    missing = [statistics]
    if is_main_process() and statistics and (tensors := load_tensors(path, identity)):
        reference.statistics = FeatureStatistics(tensors["mean"], tensors["cov"], num)
        missing = [False]
    # Processes on other machines may not see the same files.
    broadcast_object_list(missing)
    order = torch.randperm(num, generator=torch.Generator().manual_seed(_ORDER_SEED)).tolist()
    device = next((p.device for p in extractor.parameters()), torch.device("cpu"))

    def images(batches: list[range]):
        workers = num_workers if batches else 0
        loader = DataLoader(
            dataset,
            batch_sampler=[[order[i] for i in batch] for batch in batches],
            num_workers=workers,
            collate_fn=lambda items: torch.stack([item["x"] for item in items]),
            multiprocessing_context=reader_context(workers),
        )
        return (batch.to(device) for batch in loader)

    request = FeatureRequest(num if missing[0] else num_features, extractor, cache)
    accumulator, kept = StatisticsAccumulator(), []
    shards = compute_features(images, {"": request}, EXTRACTOR_BATCH, "real data", progress)
    for features in (shard[""]["features"] for shard in shards):
        if missing[0]:
            accumulator.add(features)
        if sum(map(len, kept)) < num_features:
            kept.append(features)
    if is_main_process():
        if missing[0]:
            reference.statistics = found = accumulator.statistics()
            save_tensors(path, {"mean": found.mean, "cov": found.cov}, identity)
        if num_features:
            reference.features = torch.cat(kept)[:num_features]
        # Drop cached features that only statistics needed.
        cache.keep(len(kept))
    return reference

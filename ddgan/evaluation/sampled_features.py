"""Samples of a model, and what feature extractors make of them, each computed once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddgan.evaluation.shards import SHARD_SIZE, ShardCache, in_order, shard_length
from ddgan.evaluation.stored_tensors import Tensors
from ddgan.models import GenerativeModel

# Extractors enlarge images to some 300 pixels, so that a batch of samples may not fit at once.
EXTRACTOR_BATCH = 50


@dataclass(frozen=True)
class Series:
    """The first ``num`` samples as ``extractor`` sees them, or themselves if it is None."""

    num: int
    extractor: nn.Module | None
    cache: ShardCache


def extract(extractor: nn.Module, images: Tensor) -> Tensors:
    """Return an extractor's outputs on the CPU for uint8 images (N, 1 or 3, H, W)."""
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    parts = [extractor(batch) for batch in images.split(EXTRACTOR_BATCH)]
    return _concatenate([{name: value.cpu() for name, value in part.items()} for part in parts])


@torch.no_grad()
def draw_series(
    model: GenerativeModel,
    series: Mapping[str, Series],
    seed: int,
    batch_size: int,
    use_ema: bool = True,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensors]:
    """Draw samples and return, on the main process, the tensors of each series in index order.

    A series of samples themselves has one tensor, "samples". Every batch of samples goes to all
    series that lack it and is then dropped. ``progress(k)`` is called as k samples of this
    process are done.
    """
    total = max(one.num for one in series.values())

    def compute(shard: int) -> dict[str, Tensors]:
        lengths = {name: shard_length(one.num, shard) for name, one in series.items()}
        found = {n: series[n].cache.read(shard, length) for n, length in lengths.items() if length}
        missing = {name: lengths[name] for name, tensors in found.items() if tensors is None}
        drawn = _draw_shard(model, series, missing, shard, seed, batch_size, use_ema, progress)
        if progress is not None:
            progress(shard_length(total, shard) - max(missing.values(), default=0))
        return {**found, **drawn}

    parts: dict[str, list[Tensors]] = {name: [] for name in series}
    for shard in in_order(total, compute):
        for name, tensors in shard.items():
            parts[name].append(tensors)
    return {name: _concatenate(own) for name, own in parts.items() if own}


def _draw_shard(
    model: GenerativeModel,
    series: Mapping[str, Series],
    missing: Mapping[str, int],
    shard: int,
    seed: int,
    batch_size: int,
    use_ema: bool,
    progress: Callable[[int], None] | None,
) -> dict[str, Tensors]:
    """Draw as many samples of a shard as the series in ``missing`` lack, and keep the results."""
    parts: dict[str, list[Tensors]] = {name: [] for name in missing}
    length = max(missing.values(), default=0)
    for first in range(0, length, batch_size):
        count = min(batch_size, length - first)
        samples = model.sample(
            count,
            seed=seed,
            batch_size=count,
            first_index=shard * SHARD_SIZE + first,
            use_ema=use_ema,
        )
        for name, wanted in missing.items():
            if len(own := samples[: max(0, wanted - first)]):
                extractor = series[name].extractor
                parts[name].append(
                    {"samples": own.cpu()} if extractor is None else extract(extractor, own)
                )
        if progress is not None:
            progress(count)
    drawn = {name: _concatenate(own) for name, own in parts.items()}
    for name, tensors in drawn.items():
        series[name].cache.write(shard, tensors)
    return drawn


def _concatenate(parts: list[Tensors]) -> Tensors:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

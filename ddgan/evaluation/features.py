"""Features of samples: drawn and extracted once, shared by the processes, kept on disk.

A series of samples is cut into shards of ``SHARD_SIZE``, whatever the number of processes. Each
shard is computed in the same batches, so its result is the same to the bit.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from mmengine.dist import gather_object, get_dist_info
from torch import nn

from ddgan.evaluation.cache import ShardCache, Tensors
from ddgan.evaluation.extractors import extract
from ddgan.models import GenerativeModel

SHARD_SIZE = 500
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
Result = TypeVar("Result")


def no_progress(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show nothing; the place of a progress bar."""
    return nullcontext(lambda count: None)


def shard_length(num: int, shard: int) -> int:
    """The number of samples of a series of ``num`` that are in a shard; 0 beyond its end."""
    return max(0, min(SHARD_SIZE, num - shard * SHARD_SIZE))


def own_shards(num: int) -> range:
    """The shards of a series of ``num`` that this process computes."""
    rank, world_size = get_dist_info()
    return range(rank, -(-num // SHARD_SIZE), world_size)


def in_order(num: int, compute: Callable[[int], Result]) -> Iterator[Result]:
    """Yield ``compute(shard)`` of each shard of a series, in order, on the main process.

    Each process computes its own shards, so all of them have to iterate; the others get nothing.
    """
    rank, world_size = get_dist_info()
    count = -(-num // SHARD_SIZE)
    for first in range(0, count, world_size):
        own = first + rank
        everyone = gather_object(compute(own) if own < count else None)
        if rank == 0:
            yield from everyone[: count - first]


@dataclass(frozen=True)
class FeatureRequest:
    """Features of the first ``num`` samples; the samples themselves if ``extractor`` is None."""

    num: int
    extractor: nn.Module | None
    cache: ShardCache


@torch.no_grad()
def sample_features(
    model: GenerativeModel,
    requests: Mapping[str, FeatureRequest],
    seed: int,
    batch_size: int,
    use_ema: bool = True,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Tensors]:
    """Draw samples; on the main process, the tensors of each request in the order of indices.

    A request without an extractor gets one tensor, "samples". Each batch goes to all requests that
    lack it and is then dropped. ``progress(k)`` is called when k samples of this process are done.
    """
    total = max(request.num for request in requests.values())

    def compute(shard: int) -> dict[str, Tensors]:
        lengths = {name: shard_length(one.num, shard) for name, one in requests.items()}
        found = {n: requests[n].cache.read(shard, num) for n, num in lengths.items() if num}
        missing = {name: lengths[name] for name, tensors in found.items() if tensors is None}
        parts: dict[str, list[Tensors]] = {name: [] for name in missing}
        length = max(missing.values(), default=0)
        progress(shard_length(total, shard) - length)
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
                    extractor = requests[name].extractor
                    features = extract(extractor, own) if extractor else {"samples": own.cpu()}
                    parts[name].append(features)
            progress(count)
        for name, tensors in parts.items():
            found[name] = concatenate(tensors)
            requests[name].cache.write(shard, found[name])
        return found

    shards = list(in_order(total, compute))
    return {
        name: concatenate([shard[name] for shard in shards if name in shard])
        for name in (requests if shards else ())
    }


def concatenate(parts: list[Tensors]) -> Tensors:
    """Join tensors of equal names along their first dimension."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

"""Features of images, computed in shards that the processes share and that are kept on disk.

A series of images, of samples or of a data set, is cut into shards of ``SHARD_SIZE``, whatever the
number of processes. Each shard is computed in the same batches, so its result is the same to the
bit.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from mmengine.dist import gather_object, get_dist_info
from PIL import Image
from torch import Tensor, nn

from ddgan.data.decoding import to_image, to_tensor
from ddgan.evaluation.cache import ShardCache, Tensors
from ddgan.evaluation.extractors import extract
from ddgan.utils.distributed import failing_together

SHARD_SIZE = 500
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def no_progress(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show nothing; the place of a progress bar."""
    return nullcontext(lambda count: None)


@dataclass(frozen=True)
class FeatureRequest:
    """Features of the first ``num`` images; the images themselves if ``extractor`` is None.

    With ``jpeg`` the images are compressed with that quality first.
    """

    num: int
    extractor: nn.Module | None
    cache: ShardCache
    jpeg: int | None = None

    def compute(self, images: Tensor) -> Tensors:
        """The outputs for uint8 images, on the CPU."""
        if self.extractor is None:
            return {"samples": images.cpu()}
        return extract(self.extractor, through_jpeg(images, self.jpeg) if self.jpeg else images)


@torch.no_grad()
def compute_features(
    images: Callable[[list[range]], Iterable[Tensor]],
    requests: Mapping[str, FeatureRequest],
    batch_size: int,
    label: str,
    progress: Progress = no_progress,
) -> Iterator[dict[str, Tensors]]:
    """Yield the outputs of the requests for each shard, in order, on the main process.

    ``images(batches)`` yields the uint8 images of each range of indices; only those that a request
    does not find in its cache are asked for, and each batch goes to all requests that lack it. Each
    process computes its own shards, so all of them have to iterate; the others get nothing.
    """
    rank, world_size = get_dist_info()
    total = max((request.num for request in requests.values()), default=0)
    starts = range(0, total, SHARD_SIZE)
    found: dict[int, dict[str, Tensors]] = {}
    missing: dict[int, dict[str, int]] = {}
    batches: dict[int, list[range]] = {}
    for start in starts[rank::world_size]:
        lengths = {n: min(SHARD_SIZE, request.num - start) for n, request in requests.items()}
        lengths = {name: length for name, length in lengths.items() if length > 0}
        cached = {n: requests[n].cache.read(start // SHARD_SIZE, k) for n, k in lengths.items()}
        found[start] = {name: tensors for name, tensors in cached.items() if tensors is not None}
        missing[start] = {name: k for name, k in lengths.items() if name not in found[start]}
        end = start + max(missing[start].values(), default=0)
        batches[start] = [
            range(first, min(first + batch_size, end)) for first in range(start, end, batch_size)
        ]
    stream = iter(images([batch for shard in batches.values() for batch in shard]))

    def compute(start: int) -> dict[str, Tensors]:
        parts: dict[str, list[Tensors]] = {name: [] for name in missing[start]}
        for batch in batches[start]:
            drawn = next(stream)
            for name, length in missing[start].items():
                if len(own := drawn[: max(0, start + length - batch.start)]):
                    parts[name].append(requests[name].compute(own))
            advance(len(batch))
        for name, tensors in parts.items():
            found[start][name] = concatenate(tensors)
            requests[name].cache.write(start // SHARD_SIZE, found[start][name])
        advance(min(SHARD_SIZE, total - start) - sum(map(len, batches[start])))
        return found.pop(start)

    own_total = sum(min(SHARD_SIZE, total - start) for start in found)
    with progress(label, own_total) as advance:
        for first in range(0, len(starts), world_size):
            own = first + rank
            with failing_together():
                result = compute(starts[own]) if own < len(starts) else None
            everyone = gather_object(result)
            if rank == 0:
                yield from everyone[: len(starts) - first]


def through_jpeg(images: Tensor, quality: int) -> Tensor:
    """uint8 images (N, C, H, W) as JPEG files of Pillow with this quality give them back."""
    decoded = []
    for image in images.cpu():
        file = io.BytesIO()
        to_image(image).save(file, "JPEG", quality=quality)
        with Image.open(file) as opened:
            decoded.append(to_tensor(opened))
    return torch.stack(decoded).to(images.device)


def concatenate(parts: list[Tensors]) -> Tensors:
    """Join tensors of equal names along their first dimension."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

"""The order of training: endless, shuffled again each epoch, and resumable without loading data."""

from collections.abc import Iterator, Sized

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from ddgan.data.counter_rng import random_bits
from ddgan.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ResumableSampler(Sampler[int]):
    """An endless stream of indices, shared out among the ranks.

    The stream is the permutations of epoch 0, 1, ..., each drawn from (seed, epoch), one after
    the other; rank r of W takes the positions start + r, start + r + W, ... Which samples make up
    a global batch therefore does not depend on the number of ranks. ``seed`` must be equal on all
    ranks; None draws one for all of them.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        if len(dataset) == 0:
            raise ValueError("ResumableSampler: the data set is empty; check its path and split")
        self.size = len(dataset)
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        self.start = 0

    def set_position(self, samples_seen: int) -> None:
        """Begin after ``samples_seen`` samples of all ranks together, from the next ``iter()`` on.

        Count the samples that training has used (iterations times global batch size), not those
        that a loader has fetched ahead.
        """
        if samples_seen < 0:
            raise ValueError(f"ResumableSampler: position {samples_seen} is negative")
        self.start = samples_seen

    def epoch_order(self, epoch: int) -> list[int]:
        """The order of all indices in the given epoch."""
        if not self.shuffle:
            return list(range(self.size))
        bits = int(random_bits(self.seed, np.array([epoch]))[0])
        # torch seeds are signed.
        generator = torch.Generator().manual_seed(bits >> 1)
        return torch.randperm(self.size, generator=generator).tolist()

    def __iter__(self) -> Iterator[int]:
        position = self.start + self.rank
        while True:
            epoch, offset = divmod(position, self.size)
            own = self.epoch_order(epoch)[offset :: self.world_size]
            yield from own
            position += len(own) * self.world_size

    def __len__(self) -> int:
        return self.size


def check_batch_size(dataset: Sized, global_batch: int) -> None:
    """Raise ValueError where one batch over all ranks would hold a sample more than once."""
    if global_batch > len(dataset):
        raise ValueError(
            f"the batch of {global_batch} samples (all ranks together) is larger than the data "
            f"set {getattr(dataset, 'name', type(dataset).__name__)!r} of {len(dataset)}: lower "
            f"train_dataloader.batch_size so that it is at most {len(dataset)}, or add data"
        )

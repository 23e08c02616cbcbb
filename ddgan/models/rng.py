"""The randomness of a train step, the same whatever the number of processes."""

import torch
from mmengine.dist import get_dist_info
from torch import Tensor


class StepRandom:
    """Draws for one train step: each process sees its slice of the global batch's draws.

    Every process of a run must enter with the same state of torch's default generator (the
    training loop seeds it from the seed and the iteration). One number of it seeds the draws made
    here; afterwards it is re-seeded apart on each process, for dropout and the like.
    """

    def __init__(self, batch_size: int, device: torch.device):
        """Take the batch size of this process."""
        self.batch_size = batch_size
        self.device = device
        self.rank, self.world_size = get_dist_info()
        # Drawn from the CPU's generator, so that a GPU is never waited for.
        seed = int(torch.empty((), dtype=torch.int64).random_())
        self._generator = torch.Generator(device).manual_seed(seed)
        seed_default_generators((seed + 1 + self.rank) % 2**63, device)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) standard normals."""
        out = torch.empty((self._total, *shape), device=self.device)
        return self._own(out.normal_(generator=self._generator))

    def integers(self, low: int, high: int) -> Tensor:
        """(B,) integers, uniform over {low, …, high}."""
        out = torch.empty(self._total, dtype=torch.int64, device=self.device)
        return self._own(out.random_(low, high + 1, generator=self._generator))

    def uniform(self) -> Tensor:
        """(B,) numbers, uniform over [0, 1)."""
        out = torch.empty(self._total, device=self.device)
        return self._own(out.uniform_(generator=self._generator))

    def shared_uniform(self, count: int) -> Tensor:
        """(count,) numbers, uniform over [0, 1), the same for all samples and processes."""
        return torch.empty(count, device=self.device).uniform_(generator=self._generator)

    @property
    def _total(self) -> int:
        return self.batch_size * self.world_size

    def _own(self, draws: Tensor) -> Tensor:
        # The sampler deals samples out in turns, so the draws are dealt out in turns as well.
        return draws[self.rank :: self.world_size]


def seed_default_generators(seed: int, device: torch.device) -> None:
    """Seed torch's default generators of the CPU and of ``device``.

    ``torch.manual_seed`` does so for devices of every kind, which takes a millisecond.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)

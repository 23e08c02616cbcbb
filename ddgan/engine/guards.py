"""What keeps a run from going on with broken numbers: skipped updates, and equal replicas."""

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ddgan.errors import TrainingError
from ddgan.registry import HOOKS


class SkipCounter:
    """Counts updates that were skipped since their gradient was not finite, on the device."""

    def __init__(self) -> None:
        # All of them, those in a row up to now, and the most in a row.
        self._counts: Tensor | None = None

    def add(self, skipped: Tensor) -> None:
        """Count one update; ``skipped`` is a boolean scalar. The device is not waited for."""
        if self._counts is None:
            self._counts = torch.zeros(3, dtype=torch.int64, device=skipped.device)
        total, row, longest = self._counts.unbind()
        row = (row + 1) * skipped
        self._counts = torch.stack([total + skipped, row, torch.maximum(longest, row)])

    def read(self) -> tuple[int, int, int]:
        """Return how many were skipped in all, last in a row, and at most in a row."""
        return (0, 0, 0) if self._counts is None else tuple(self._counts.tolist())


@HOOKS.register_module()
class EqualReplicas(Hook):
    """Stop the run if the processes' networks differ in any bit, every ``interval`` iterations.

    The parameters of all networks, the averaged one included, are compared by sums of their bits.
    With one process there is nothing to compare.
    """

    priority = "NORMAL"

    def __init__(self, interval: int = 1000):
        if interval < 1:
            raise ValueError(f"EqualReplicas: interval is {interval}; expected at least 1")
        self.interval = interval

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Compare where it is due."""
        done = batch_idx + 1
        if runner.world_size == 1 or (done % self.interval and done != runner.max_iters):
            return
        names = [name for name, _ in runner.model.named_parameters()]
        own = parameter_sums(runner.model)
        everyone = [torch.empty_like(own) for _ in range(runner.world_size)]
        dist.all_gather(everyone, own)
        differs = torch.stack(everyone) != everyone[0]
        if differs.any():
            ranks = differs.any(dim=1).nonzero().flatten().tolist()
            dist.barrier()  # A process that leaves early would keep others from saying this.
            tensors = [names[i] for i in differs.any(dim=0).nonzero().flatten().tolist()]
            raise TrainingError(
                f"the processes' networks differ at iteration {done}: {len(tensors)} tensors, such "
                f"as {tensors[0]}, are not the same on process {ranks} as on process 0. A device "
                "that computes wrongly or a module that draws or averages by itself can do that; "
                "resume from a checkpoint before this iteration, without the machine if it recurs"
            )


def parameter_sums(model: nn.Module) -> Tensor:
    """Return an int64 for each parameter, the sum of its bits read as integers.

    It is exact in any order of summation. Entries are weighted by their position, so that values
    that change places are noticed as well.
    """
    views = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = []
    for parameter in model.parameters():
        bits = parameter.detach().reshape(-1).view(views[parameter.element_size()]).long()
        sums.append((bits * (1 + torch.arange(len(bits), device=bits.device) % 8191)).sum())
    return torch.stack(sums)

"""Faults, as hooks that a test's config names."""

import multiprocessing
import os
import signal
from pathlib import Path

import torch
import torch.utils.data
from mmengine.hooks import Hook

from ddgan.data.storage import StorageError
from ddgan.registry import HOOKS


@HOOKS.register_module()
class SignalAt(Hook):
    """Send a signal to this process before iteration ``at`` (1 for the first), on one rank."""

    def __init__(self, number, at, rank=0):
        self.number, self.at, self.rank = number, at, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx + 1 == self.at and runner.rank == self.rank:
            os.kill(os.getpid(), getattr(signal, self.number))


@HOOKS.register_module()
class Perturb(Hook):
    """Change one bit of a parameter on one rank after iteration ``at``."""

    priority = "VERY_HIGH"

    def __init__(self, name, at, rank):
        self.name, self.at, self.rank = name, at, rank

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx + 1 == self.at and runner.rank == self.rank:
            parameter = dict(runner.model.named_parameters())[self.name].detach().view(-1)
            parameter[:1].view(torch.int32).bitwise_xor_(1)


@HOOKS.register_module()
class PoisonGradients(Hook):
    """Make the gradients of some iterations ``value`` on one rank, before they are averaged."""

    def __init__(self, at, network="discriminator", value="nan", rank=0):
        self.at, self.network, self.value, self.rank = at, network, float(value), rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not hasattr(self, "_factor"):
            self._factor = 1.0
            parameter = next(getattr(runner.model, self.network).parameters())
            if runner.rank == self.rank:
                parameter.register_hook(lambda gradient: gradient * self._factor)
        self._factor = self.value if batch_idx + 1 in self.at else 1.0


@HOOKS.register_module()
class KillWorker(Hook):
    """Kill a process that reads data before iteration ``at``."""

    def __init__(self, at):
        self.at = at
        # The loader looks after its processes every five seconds.
        torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.1

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx + 1 in self.at:
            # There is none while a death is not noticed yet.
            for victim in multiprocessing.active_children()[:1]:
                os.kill(victim.pid, signal.SIGKILL)
                victim.join()


@HOOKS.register_module()
class LoseData(Hook):
    """The data of iteration ``at`` and of later ones cannot be read, on one rank."""

    def __init__(self, at, rank=0):
        self.at, self.rank = at, rank

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        # Batches are read one iteration ahead.
        if batch_idx + 3 == self.at and runner.rank == self.rank:
            runner.train_loop.dataloader.dataset.__class__ = Unreadable


class Unreadable(torch.utils.data.Dataset):
    def __getitem__(self, index):
        raise StorageError("the storage is away")


@HOOKS.register_module()
class LoseFolder(Hook):
    """Put a file in the place of the folder of samples, once training has begun."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        (Path(runner.work_dir) / "samples").touch()


@HOOKS.register_module()
class FailOnOneRank(Hook):
    """Samples cannot be drawn on one rank once training has begun."""

    def __init__(self, rank):
        self.rank = rank

    def before_train(self, runner):
        if runner.rank == self.rank:
            runner.model.sample = self.fail

    def fail(self, *arguments, **options):
        raise RuntimeError("no memory for samples")


@HOOKS.register_module()
class RecordUse(Hook):
    """Write resident memory in KiB and the number of open files, every ``interval`` iterations."""

    priority = "LOWEST"

    def __init__(self, interval):
        self.interval = interval

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (batch_idx + 1) % self.interval == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            files = len(os.listdir("/proc/self/fd"))
            with open(Path(runner.work_dir) / "use.txt", "a") as file:
                file.write(f"{pages * os.sysconf('SC_PAGE_SIZE') // 1024} {files}\n")

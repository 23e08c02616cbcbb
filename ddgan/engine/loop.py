"""The training loop."""

import signal
import threading
from collections.abc import Iterator

import torch
from mmengine.dist import get_world_size
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ddgan.data import check_batch_size, collate
from ddgan.data.workers import reader_context
from ddgan.engine.preemption import StopRequest
from ddgan.errors import TrainingError
from ddgan.models.base import check_shapes
from ddgan.models.rng import seed_default_generators
from ddgan.registry import LOOPS
from ddgan.utils.device import memory_errors_named
from ddgan.utils.distributed import DEFAULT_TIMEOUT

_MAX_DEAD_WORKERS = 3
_WORKER_DIED = ("exited unexpectedly", "is killed by signal")


@LOOPS.register_module()
class TrainLoop(BaseLoop):
    """Train for ``max_iters`` iterations over an endless loader, resumable at every one of them.

    Each iteration seeds torch from (seed, iteration), and the sampler is told the position to
    start from: nothing but the iteration has to be restored, and no data is read twice.

    SIGTERM and SIGUSR1 end training after an iteration, with a checkpoint, and set ``preempted``.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, max_iters: int):
        if isinstance(dataloader, dict):
            # The only epoch is endless, so that workers need not outlive it.
            dataloader = {"collate_fn": collate, **dataloader, "persistent_workers": False}
            if runner.device.type != "cuda":
                # Without a GPU, torch warns that memory cannot be pinned.
                dataloader["pin_memory"] = False
            dataloader["multiprocessing_context"] = reader_context(
                dataloader.get("num_workers", 0), dataloader.get("multiprocessing_context")
            )
        super().__init__(runner, dataloader)
        if max_iters < 1:
            raise ValueError(f"train_cfg.max_iters is {max_iters}; expected at least 1")
        self._max_iters = int(max_iters)
        self.iter = 0
        self.samples_seen = 0
        self.preempted = False
        self.global_batch_size = self.dataloader.batch_size * get_world_size()
        check_batch_size(self.dataloader.dataset, self.global_batch_size)
        check_shapes(self.dataloader.dataset, runner.model)

    # mmengine's runner and hooks ask for epochs; the whole training is one.
    epoch = 0
    max_epochs = 1

    @property
    def max_iters(self) -> int:
        """The number of iterations to train for in total."""
        return self._max_iters

    def resume(self, iteration: int, samples_seen: int) -> None:
        """Continue after ``iteration`` iterations, in which ``samples_seen`` samples were used."""
        self.iter = iteration
        self.samples_seen = samples_seen

    @property
    def window_ended(self) -> bool:
        """Whether no gradients are accumulated that are still to be applied.

        A checkpoint holds no gradients, so only then is it whole.
        """
        return all(wrapper.should_update() for wrapper in self.runner.optim_wrapper.values())

    def run(self) -> nn.Module:
        """Train and return the model."""
        runner = self.runner
        timeout = runner.cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout", DEFAULT_TIMEOUT)
        self._stop = StopRequest(timeout)
        with self._stop.listen():
            self._run()
        if self.preempted:
            self._stop.wait_for_others()
        return runner.model

    def _run(self) -> None:
        runner = self.runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        for wrapper in runner.optim_wrapper.values():
            # So that a last, partial window of accumulated gradients is applied as well.
            wrapper.initialize_count_status(runner.model, self.iter, self.max_iters)
        runner.model.train()
        batches = self._batches()
        while self.iter < self.max_iters:
            self.run_iter(self._read(batches))
            if self.preempted and self.window_ended:
                break
        self.preempted &= self.iter < self.max_iters
        if self.preempted:
            runner.logger.warning(
                f"Asked to stop by a signal, after iteration {self.iter} of {self.max_iters}; "
                "the same command with --resume goes on from here"
            )
            return
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")

    def _read(self, batches: Iterator[dict]) -> dict:
        """The next batch; when there is none to be had, what was trained is saved first."""
        try:
            return next(batches)
        except Exception:
            self.runner.call_hook("before_failure")
            raise

    def run_iter(self, batch: dict) -> None:
        """Make one iteration."""
        self.runner.call_hook("before_train_iter", batch_idx=self.iter, data_batch=batch)
        seed_iteration(self.runner.seed, self.iter, self.runner.device)
        with memory_errors_named(self.dataloader.batch_size, "train_dataloader.batch_size"):
            outputs = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        self.samples_seen += self.global_batch_size
        self.preempted |= self._stop.agreed()
        self.runner.call_hook(
            "after_train_iter", batch_idx=self.iter, data_batch=batch, outputs=outputs
        )
        self.iter += 1

    def _batches(self) -> Iterator[dict]:
        """Yield the batches from ``samples_seen`` on; dead workers are replaced."""
        for _ in range(_MAX_DEAD_WORKERS + 1):
            self.dataloader.sampler.set_position(self.samples_seen)
            batches = iter(self.dataloader)
            if threading.current_thread() is threading.main_thread():
                # The loader would raise amid whatever runs when a worker dies; without this, it
                # notices when it waits for the next batch, where nothing is lost.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                yield from batches
            except RuntimeError as error:
                if not any(text in str(error) for text in _WORKER_DIED):
                    raise
                reason = str(error).splitlines()[0]
                self.runner.logger.warning(f"Reading goes on with new workers: {reason}")
        raise TrainingError(
            f"processes that read data died {_MAX_DEAD_WORKERS + 1} times, at last: {reason}. The "
            "machine may lack memory or room in /dev/shm; resume with a lower "
            "train_dataloader.num_workers"
        )


def seed_iteration(seed: int, iteration: int, device: torch.device) -> None:
    """Seed torch for one iteration, alike on all processes; ``StepRandom`` sets them apart."""
    # An odd multiplier mixes the two numbers over 64 bits; consecutive iterations and seeds do not
    # collide.
    seed_default_generators((seed * 0x9E3779B97F4A7C15 + iteration) % 2**63, device)

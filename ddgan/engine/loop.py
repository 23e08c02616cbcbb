"""The training loop."""

import math
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
from ddgan.engine.preemption import GO_ON, NO_DATA, StopRequest
from ddgan.errors import LostProcessError, TrainingError
from ddgan.models.base import check_shapes
from ddgan.models.rng import seed_default_generators
from ddgan.registry import DATASETS, LOOPS
from ddgan.utils.device import memory_errors_named
from ddgan.utils.distributed import DEFAULT_TIMEOUT

_MAX_DEAD_WORKERS = 3
_WORKER_DIED = ("exited unexpectedly", "is killed by signal")


@LOOPS.register_module()
class TrainLoop(BaseLoop):
    """Train for ``max_iters`` iterations over an endless loader, resumable at every one of them.

    Each iteration seeds torch from (seed, iteration), and the sampler is told the position to
    start from: nothing but the iteration has to be restored, and no data is read twice.

    SIGTERM, SIGUSR1 and SIGHUP end training after an iteration, with a checkpoint, and set
    ``preempted``. So does data that one of the processes cannot read; this is then an error.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, max_iters: int):
        if isinstance(dataloader, dict):
            # The only epoch is endless, so that workers need not outlive it.
            dataloader = {"collate_fn": collate, **dataloader, "persistent_workers": False}
            if runner.device.type != "cuda":
                # Without a GPU, torch warns that memory cannot be pinned.
                dataloader["pin_memory"] = False
            if isinstance(dataloader["dataset"], dict):
                dataloader["dataset"] = DATASETS.build(dataloader["dataset"])
            dataloader["multiprocessing_context"] = reader_context(
                dataloader.get("num_workers", 0),
                dataloader.get("multiprocessing_context"),
                _batch_bytes(dataloader),
            )
        super().__init__(runner, dataloader)
        if max_iters < 1:
            raise ValueError(f"train_cfg.max_iters is {max_iters}; expected at least 1")
        self._max_iters = int(max_iters)
        self.iter = 0
        self.samples_seen = 0
        self.preempted = False
        self.reason_to_stop = GO_ON
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
        self._train()
        self.preempted &= self.iter < self.max_iters
        if self.preempted:
            runner.logger.warning(
                f"Asked to stop by a signal, after iteration {self.iter} of {self.max_iters}; "
                "the same command with --resume goes on from here"
            )
            return
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")

    def _train(self) -> None:
        """Make all iterations.

        Each batch is read one iteration ahead: when a process cannot read it, all processes know
        after the iteration before, and save what was trained.
        """
        if self.iter >= self.max_iters:
            return
        batches = self._batches()
        batch = next(batches)
        while True:
            following, failure = None, None
            if self.iter + 1 < self.max_iters:
                try:
                    following = next(batches)
                except Exception as error:
                    failure = error
            self._stop.tell(GO_ON if failure is None else NO_DATA)
            self.run_iter(batch)
            if self.reason_to_stop == NO_DATA:
                self._end_without_data(failure)
            if self.iter == self.max_iters or (self.preempted and self.window_ended):
                return
            batch = following

    def _end_without_data(self, failure: Exception | None) -> None:
        self._stop.wait_for_others()
        raise failure or LostProcessError(
            f"another process could not read its data after iteration {self.iter}: its own message "
            "says why; continue with --resume"
        )

    def run_iter(self, batch: dict) -> None:
        """Make one iteration."""
        self.runner.call_hook("before_train_iter", batch_idx=self.iter, data_batch=batch)
        seed_iteration(self.runner.seed, self.iter, self.runner.device)
        with memory_errors_named(self.dataloader.batch_size, "train_dataloader.batch_size"):
            outputs = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        self.samples_seen += self.global_batch_size
        self.reason_to_stop = max(self.reason_to_stop, self._stop.agreed())
        self.preempted = self.reason_to_stop != GO_ON
        self.runner.call_hook(
            "after_train_iter", batch_idx=self.iter, data_batch=batch, outputs=outputs
        )
        self.iter += 1

    def _batches(self) -> Iterator[dict]:
        """Yield the batches from ``samples_seen`` on; dead workers are replaced."""
        position = self.samples_seen
        for _ in range(_MAX_DEAD_WORKERS + 1):
            self.dataloader.sampler.set_position(position)
            batches = iter(self.dataloader)
            if threading.current_thread() is threading.main_thread():
                # The loader would raise amid whatever runs when a worker dies; without this, it
                # notices when it waits for the next batch, where nothing is lost.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                for batch in batches:
                    position += self.global_batch_size
                    yield batch
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


def _batch_bytes(dataloader: dict) -> int:
    """The size of a batch of images, which workers send as bytes; 0 for other data."""
    shape = getattr(dataloader["dataset"], "image_shape", (0,))
    return math.prod(shape) * dataloader["batch_size"]


def seed_iteration(seed: int, iteration: int, device: torch.device) -> None:
    """Seed torch for one iteration, alike on all processes; ``StepRandom`` sets them apart."""
    # An odd multiplier mixes the two numbers over 64 bits; consecutive iterations and seeds do not
    # collide.
    seed_default_generators((seed * 0x9E3779B97F4A7C15 + iteration) % 2**63, device)

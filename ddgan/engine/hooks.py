"""Hooks around iterations: the log, checkpoints, images, and a check that replicas are equal."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ddgan.engine.checkpoint import list_checkpoints, newest_good_checkpoint
from ddgan.engine.optim import PrecisionOptimWrapper
from ddgan.errors import TrainingError, UserError
from ddgan.registry import HOOKS
from ddgan.utils.device import peak_memory
from ddgan.utils.distributed import is_lost_process
from ddgan.utils.files import check_writable
from ddgan.visualization import save_samples


class RunningMeans:
    """Means of logged tensors since the last report, kept on the device until they are read.

    A vector stands for one mean per entry, and its NaNs for entries without a value. Values that
    are not finite are left out, as are the updates that they would have led to.
    """

    def __init__(self) -> None:
        # The sums and counts of all values that came together, by their names and shapes.
        self._totals: dict[tuple[tuple[str, torch.Size], ...], Tensor] = {}

    def add(self, logs: dict[str, Tensor]) -> None:
        """Add the values of one iteration, all on one device."""
        if not logs:
            return
        # Together, since a few numbers cost as much as one.
        values = torch.cat([value.reshape(-1) for value in logs.values()])
        finite = values.isfinite()
        new = torch.stack([torch.where(finite, values, 0.0), finite])
        key = tuple((name, value.shape) for name, value in logs.items())
        self._totals[key] = self._totals[key].add_(new) if key in self._totals else new

    def pop(self) -> dict[str, float]:
        """Return the means and start over; this waits for the device."""
        sums: dict[str, Tensor] = {}
        for key, totals in self._totals.items():
            parts = totals.cpu().split([shape.numel() for _, shape in key], dim=1)
            for (name, shape), part in zip(key, parts, strict=True):
                part = part.reshape(2, *shape)
                sums[name] = sums[name] + part if name in sums else part
        self._totals = {}
        means: dict[str, float] = {}
        for name, (total, count) in sums.items():
            values = (total / count).tolist()
            if isinstance(values, list):
                means |= {f"{name}_{i}": v for i, v in enumerate(values, 1) if v == v}
            else:
                means[name] = values
        return means


@HOOKS.register_module()
class TrainingLog(Hook):
    """Report progress, speed and the means of the losses every ``interval`` iterations.

    Losses stay on the device in between. Updates that were skipped, since their gradient was not
    finite, are counted; the report that finds more than ``max_skipped`` of them in a row stops the
    run. Weights that are not finite do so before they get into a checkpoint.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, interval: int = 50, max_skipped: int = 20):
        self.interval = at_least_one("TrainingLog: interval", interval)
        self.max_skipped = max_skipped
        self._means = RunningMeans()
        self._skipped: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        """State the sizes of the run."""
        loop = runner.train_loop
        runner.logger.info(
            f"Training from iteration {loop.iter} to {loop.max_iters} with global batch "
            f"{loop.global_batch_size} ({runner.world_size} x {loop.dataloader.batch_size}), "
            f"learning rates {_learning_rates(runner)}; folder {runner.work_dir}"
        )
        self._since, self._since_iter = time.perf_counter(), loop.iter
        self._waiting, self._iter_end = 0.0, self._since

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Note the time spent waiting for data."""
        self._waiting += time.perf_counter() - self._iter_end

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Add up the logs, and report where it is due."""
        self._means.add(outputs or {})
        done = batch_idx + 1
        if is_due(runner, done, self.interval):
            self.report(runner, done)
        self._iter_end = time.perf_counter()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the weights that the last step left."""
        weights = {n: v for n, v in checkpoint["state_dict"].items() if isinstance(v, Tensor)}
        finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
        bad = [name for name, is_finite in zip(weights, finite, strict=True) if not is_finite]
        if bad:
            raise _diverged(runner, f"{len(bad)} of the weights, such as {bad[0]}, are not finite")

    def report(self, runner: Runner, done: int) -> None:
        """Write one line to the log and the scalars to the visualizer."""
        means = self._means.pop()
        self._check_updates(runner, done)
        now, iterations = time.perf_counter(), max(done - self._since_iter, 1)
        seconds = (now - self._since) / iterations
        loop = runner.train_loop
        speed = {
            "seconds_per_iter": seconds,
            "images_per_second": loop.global_batch_size / seconds,
            "data_wait": self._waiting / (now - self._since),
            "memory_gib": peak_memory(runner.device) / 2**30,
        }
        norms = {
            f"{name}_grad_norm": float(wrapper.grad_norm)
            for name, wrapper in runner.optim_wrapper.items()
            if getattr(wrapper, "grad_norm", None) is not None
        }
        rates = {f"{name}_lr": lr for name, lr in _learning_rates(runner).items()}
        with failures_reported(runner, "Writing curves"):
            runner.visualizer.add_scalars({**means, **norms, **rates, **speed}, step=done)
        eta = timedelta(seconds=int(seconds * (loop.max_iters - done)))
        losses = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        runner.logger.info(
            f"iter {done}/{loop.max_iters}  eta {eta}  {seconds:.3f} s/iter  "
            f"{speed['images_per_second']:.0f} images/s  data {speed['data_wait']:.1%}  "
            f"memory {speed['memory_gib']:.2f} GiB  {losses}"
        )
        self._since, self._since_iter, self._waiting = now, done, 0.0

    def _check_updates(self, runner: Runner, done: int) -> None:
        for name, wrapper in _skipping(runner):
            total, row, longest = wrapper.skips.read()
            if longest > self.max_skipped or (row and done == runner.max_iters):
                raise _diverged(
                    runner,
                    f"{max(row, longest)} updates of the {name} in a row had a loss or a gradient "
                    "that is not finite and were skipped",
                )
            if new := total - self._skipped.get(name, 0):
                runner.logger.warning(
                    f"{new} updates of the {name} were skipped, since their gradient was not "
                    f"finite ({total} so far)"
                )
            self._skipped[name] = total


def _diverged(runner: Runner, what: str) -> TrainingError:
    good = newest_good_checkpoint(runner.work_dir)
    advice = "a lower learning rate, a larger r1_gamma or --amp off"
    if good is None:
        advice = f"no checkpoint was saved yet. Begin again with {advice}"
    else:
        # Resuming restores the learning rate as well.
        advice = (
            f"the last good checkpoint is {good}. Begin a new run with its weights (--work-dir "
            f"elsewhere, --cfg-options load_from={good}) and {advice}"
        )
    return TrainingError(f"{what} at iteration {runner.iter + 1}; {advice}")


@contextmanager
def failures_reported(runner: Runner, what: str) -> Iterator[None]:
    """Log an error of ``what`` instead of ending the run, which needs no result of it.

    TrainingError and the loss of another process are raised, since training cannot go on.
    """
    try:
        yield
    except TrainingError:
        raise
    except Exception as error:
        if is_lost_process(error):
            raise
        runner.logger.error(
            f"{what} failed at iteration {runner.iter + 1}, and training goes on: "
            f"{type(error).__name__}: {error}",
            exc_info=os.environ.get("DDGAN_TRACEBACK") == "1",
        )


def is_due(runner: Runner, done: int, interval: int) -> bool:
    """Whether ``done`` iterations are a multiple of the interval, or all of them."""
    return done % interval == 0 or done == runner.max_iters


def at_least_one(name: str, value: int) -> int:
    """Return ``value``; raises ValueError if it is below 1."""
    if value < 1:
        raise ValueError(f"{name} is {value}; expected at least 1")
    return value


def _skipping(runner: Runner) -> list[tuple[str, PrecisionOptimWrapper]]:
    wrappers = runner.optim_wrapper.items()
    return [(n, wrapper) for n, wrapper in wrappers if isinstance(wrapper, PrecisionOptimWrapper)]


def _learning_rates(runner: Runner) -> dict[str, float]:
    wrappers = runner.optim_wrapper.items()
    return {name: wrapper.optimizer.param_groups[0]["lr"] for name, wrapper in wrappers}


@HOOKS.register_module()
class AtomicCheckpoint(Hook):
    """Write ``iter_N.pth`` every ``interval`` iterations and at the end, from the main process.

    It is written early if the run is asked to stop, and later while gradients are accumulated or
    updates are skipped: it is complete and never holds diverging weights. Of the
    checkpoints, the newest ``max_keep_ckpts`` are kept (all if -1), and those of every
    ``keep_every``-th iteration; an old one goes only after a new one is complete.
    """

    priority = "VERY_LOW"

    def __init__(
        self, interval: int = 10_000, max_keep_ckpts: int = 3, keep_every: int | None = None
    ):
        if interval < 1 or max_keep_ckpts == 0:
            raise ValueError(
                f"interval is {interval} and max_keep_ckpts {max_keep_ckpts}; expected an interval "
                "of at least 1, and at least 1 checkpoint kept, or -1 for all"
            )
        self.interval = interval
        self.max_keep_ckpts = max_keep_ckpts
        self.keep_every = None if keep_every is None else at_least_one("keep_every", keep_every)
        self._due = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Save where it is due."""
        done = batch_idx + 1
        self._due |= runner.train_loop.preempted or is_due(runner, done, self.interval)
        if self._due:
            self._save(runner, done)

    def _save(self, runner: Runner, done: int) -> None:
        if not (is_main_process() and runner.train_loop.window_ended):
            return
        if any(wrapper.skips.read()[1] for _, wrapper in _skipping(runner)):
            return
        self._due = False
        path = Path(runner.work_dir) / f"iter_{done}.pth"
        runner.save_training_state(path, done)
        runner.logger.info(f"Saved {path}")
        if self.max_keep_ckpts > 0:
            # Those beyond this one, if a run went on from an earlier one, are not for us to judge.
            saved = list_checkpoints(runner.work_dir)
            for old in saved[: saved.index(path) + 1][: -self.max_keep_ckpts]:
                if not self.keep_every or int(old.stem.removeprefix("iter_")) % self.keep_every:
                    old.unlink()


@HOOKS.register_module()
class SampleImages(Hook):
    """Draw the same ``num`` samples of the averaged generator every ``interval`` iterations.

    They go to ``samples/iter_N.png`` in the run's folder and to TensorBoard: a grid of images,
    or a scatter plot of points.
    """

    priority = "LOWEST"  # after the checkpoint, which must not depend on it

    def __init__(self, interval: int = 1000, num: int = 64, seed: int = 0):
        self.interval = at_least_one("SampleImages: interval", interval)
        self.num = at_least_one("SampleImages: num", num)
        self.seed = seed

    def check(self, config: Config) -> None:
        """Raise UserError if the images cannot be written."""
        check_writable(Path(config.work_dir) / "samples")

    def before_train(self, runner: Runner) -> None:
        """Warn as early as possible; training does not need the images."""
        if is_main_process():
            try:
                self.check(runner.cfg)
            except UserError as error:
                runner.logger.warning(f"Samples will not be drawn, and training goes on: {error}")

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Draw where it is due."""
        done = batch_idx + 1
        if not is_main_process() or not is_due(runner, done, self.interval):
            return
        with failures_reported(runner, "Drawing samples"):
            samples = runner.model.sample(self.num, seed=self.seed)
            path = Path(runner.work_dir) / "samples" / f"iter_{done}.png"
            image = save_samples(samples, path)
            runner.visualizer.add_image("samples", image, step=done)


@HOOKS.register_module()
class EqualReplicas(Hook):
    """Stop the run if the processes' networks differ in any bit, every ``interval`` iterations.

    The parameters of all networks, the averaged one included, are compared by sums of their bits.
    With one process there is nothing to compare.
    """

    priority = "NORMAL"

    def __init__(self, interval: int = 1000):
        self.interval = at_least_one("EqualReplicas: interval", interval)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Compare where it is due."""
        done = batch_idx + 1
        if runner.world_size == 1 or not is_due(runner, done, self.interval):
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

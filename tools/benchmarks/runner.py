"""What an iteration of training costs beside the model's train step."""

import argparse
import contextlib
import functools
import io
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from mmengine.hooks import Hook

from benchmarks import Clock
from ddgan.engine import Runner, load_config
from ddgan.models.rng import StepRandom
from ddgan.utils.cli import add_options as add_shared_options

ROOT = Path(__file__).parents[2]
WARM_UP = 20
PARTS = {
    "train step": "train step, and of it",
    "checks": "  norms, counts of skipped steps",
    "rng": "  random generators",
    "overhead": "all but the train step",
    "data": "  data",
    "before": "  hooks before the step, seed",
    "after": "  hooks after the step, and of them",
}


class Instrument(Hook):
    """Adds up the seconds that the parts of an iteration take."""

    def __init__(self, now: Callable[[], float], iterations: int) -> None:
        self.now, self.iterations = now, iterations
        self.seconds: dict[str, float] = defaultdict(float)
        self.milliseconds: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        """Wrap what an iteration calls."""
        loop = runner.train_loop
        loop.run_iter = self.timed("iteration", loop.run_iter)
        runner.model.train_step = self.timed("train step", runner.model.train_step)
        for hook in runner.hooks:
            if hook is not self:
                name = type(hook).__name__
                hook.after_train_iter = self.timed(name, hook.after_train_iter)
        for wrapper in runner.optim_wrapper.values():
            wrapper.optimizer.step = self.timed("optimizer", wrapper.optimizer.step)
            wrapper.step = self.timed("update", wrapper.step)
        batches = loop._batches()
        loop._batches = lambda: iter(self.timed("data", functools.partial(next, batches)), None)

    def timed(self, part: str, call: Callable) -> Callable:
        """``call``, whose time is added to a part."""

        def run(*args, **kwargs):
            start = self.now()
            result = call(*args, **kwargs)
            self.seconds[part] += self.now() - start
            return result

        return run

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Forget the warm-up, and finish before the last iteration, which ends the training."""
        if batch_idx == WARM_UP:
            self.seconds = defaultdict(float)
        elif batch_idx == WARM_UP + self.iterations:
            found = dict(self.seconds)
            found["checks"] = found.pop("update") - found.pop("optimizer")
            hooks = [found[type(hook).__name__] for hook in runner.hooks if hook is not self]
            found["after"] = sum(hooks)
            iteration = found.pop("iteration") - found["train step"]
            found["before"] = iteration - found["after"]
            found["overhead"] = iteration + found["data"]
            self.milliseconds = {n: 1e3 * s / self.iterations for n, s in found.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--config", default="configs/ddgan_gaussians25.py")
    add_shared_options(parser, "--cfg-options", "--import")
    parser.add_argument(
        "--widths",
        nargs="+",
        type=int,
        default=[8, 768],
        help="hidden_dim of both networks, for steps of several lengths (default 8 768)",
    )
    parser.add_argument("--iterations", type=int, default=200)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What an iteration costs beside the train step: data, hooks, log, seeds.

    The runner trains a config of fully connected networks with its default hooks and log. The
    writing of checkpoints and samples, which happens once in thousands of iterations, is left out.
    """
    print(f"{options.config}; milliseconds, mean of {options.iterations} iterations")
    runs = []
    for width in options.widths:
        runs.append(measure_run(options, width))
        times, step = runs[-1], runs[-1]["train step"]
        print(f"width {width}")
        hooks = {name: f"    {name}" for name in times if name not in PARTS}
        for name, what in (PARTS | hooks).items():
            print(f"  {what:36} {times[name]:8.3f}  {times[name] / step:7.2%}", flush=True)
    return {"widths": options.widths, "runs": runs}


def measure_run(options: argparse.Namespace, width: int) -> dict[str, float]:
    """Train, and return the mean milliseconds of each part of an iteration."""
    keys = {f"model.{name}.hidden_dim": width for name in ("generator", "discriminator")}
    cfg = load_config(ROOT / options.config, {**keys, **options.cfg_options})
    cfg.train_cfg.max_iters = WARM_UP + options.iterations + 1
    cfg.device, cfg.custom_hooks = options.device, []
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_iters
    instrument = Instrument(Clock(options.device, options.threads).now, options.iterations)
    generators = mock.patch.object(
        StepRandom, "__init__", instrument.timed("rng", StepRandom.__init__)
    )
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as cfg.work_dir, generators, quiet:
        runner = Runner.from_cfg(cfg)
        runner.register_hook(instrument, priority="HIGHEST")
        runner.train()
    return instrument.milliseconds

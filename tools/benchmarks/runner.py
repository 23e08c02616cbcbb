"""What an iteration of training costs besides the model's train step."""

import argparse
import contextlib
import functools
import io
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from benchmarks import Clock
from ddgan.engine import Runner, load_config
from ddgan.utils.cli import add_options as add_shared_options

ROOT = Path(__file__).parents[2]
WARM_UP = 20


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
                hook.after_train_iter = self.timed("hooks after", hook.after_train_iter)
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
            rest = found.pop("iteration") - found["train step"]
            found["hooks before, seed"] = rest - found["hooks after"]
            found["all but the train step"] = rest + found["data"]
            self.milliseconds = {n: 1e3 * s / self.iterations for n, s in found.items()}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("--config", default="configs/ddgan_gaussians25.py")
    add_shared_options(parser, "--cfg-options", "--import")
    parser.add_argument("--iterations", type=int, default=200)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """What an iteration costs besides the train step: data, hooks, log, seeds.

    The runner trains a config with its default hooks and log. The writing of checkpoints and
    samples, which happens once in thousands of iterations, is left out.
    """
    cfg = load_config(ROOT / options.config, options.cfg_options)
    cfg.train_cfg.max_iters = WARM_UP + options.iterations + 1
    cfg.device, cfg.custom_hooks = options.device, []
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_iters
    instrument = Instrument(Clock(options.device, options.threads).now, options.iterations)
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as cfg.work_dir, quiet:
        runner = Runner.from_cfg(cfg)
        runner.register_hook(instrument, priority="HIGHEST")
        runner.train()
    times = instrument.milliseconds
    print(f"{options.config}; milliseconds, mean of {options.iterations} iterations")
    for name, ms in times.items():
        print(f"  {name:24} {ms:8.3f}  {ms / times['train step']:7.2%}")
    return {"milliseconds": times}

"""What an iteration of training costs beside the model's train step: data, hooks, log, seeds.

A run of the config is trained by the runner, with its default hooks and its log, once for each
``--step-ms``: with networks so wide that a step takes about that long. Every part is timed in every
iteration, so the step that it is compared with is that of the same iteration. Not counted are the
writing of checkpoints and the drawing of samples, which are due once in thousands of iterations.
"""

import argparse
import contextlib
import functools
import io
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from benchmark_ops import Clock, device_name, measure
from mmengine import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner as MMRunner

from ddgan.engine import Runner, load_config
from ddgan.engine.optim import build_optim_wrappers
from ddgan.errors import UserError
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS
from ddgan.utils.cli import OptionsAction, user_errors
from ddgan.utils.device import set_up_cpu

ROOT = Path(__file__).parents[1]
WIDTHS = (8, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048)
WARM_UP = 20
PARTS = {
    "overhead": "all but the train step",
    "data": "data",
    "before": "hooks before the step, seed",
    "after": "hooks after the step, of which",
}


class Stopwatch(Hook):
    """Times the parts of every iteration, between the hooks that run first and last."""

    def __init__(self, now: Callable[[], float], wait: Callable[[], None]) -> None:
        self.now, self.wait = now, wait
        self.parts: dict[str, list[float]] = defaultdict(list)
        self._since = self._begin = 0.0

    def before_train(self, runner: MMRunner) -> None:
        """Wrap what is called within an iteration."""
        runner.model.train_step = self._train_step(runner.model.train_step)
        for hook in runner.hooks:
            if not isinstance(hook, (Stopwatch, End)):
                name = f"  {type(hook).__name__}"
                hook.after_train_iter = self._timed(name, hook.after_train_iter)
        for wrapper in runner.optim_wrapper.values():
            wrapper.optimizer.step = self._timed("Adam", wrapper.optimizer.step)
            wrapper.step = self._timed("step", wrapper.step)
        self._since = self._begin = self.now()

    def before_train_iter(self, runner: MMRunner, batch_idx: int, data_batch=None) -> None:
        """Note the end of waiting for data."""
        self.lap("data")

    def lap(self, part: str) -> None:
        """Add the time since the last lap to a part."""
        now = self.now()
        self.parts[part].append(now - self._since)
        self._since = now

    def finish(self) -> None:
        """End an iteration."""
        self.wait()
        self.lap("after")
        step = self.parts["train step"][-1]
        self.parts["overhead"].append(self._since - self._begin - step)
        updates = sum(self.parts.pop("step")) - sum(self.parts.pop("Adam"))
        self.parts["checks of updates"].append(updates)
        self._begin = self._since

    def _timed(self, part: str, call: Callable) -> Callable:
        @functools.wraps(call)
        def timed(*args, **kwargs):
            start = self.now()
            result = call(*args, **kwargs)
            self.parts[part].append(self.now() - start)
            return result

        return timed

    def _train_step(self, call: Callable) -> Callable:
        @functools.wraps(call)
        def timed(*args, **kwargs):
            self.lap("before")
            result = call(*args, **kwargs)
            self.wait()
            self.lap("train step")
            return result

        return timed


class End(Hook):
    """Tells the stopwatch of the end of each iteration."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def after_train_iter(
        self, runner: MMRunner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Finish."""
        self.stopwatch.finish()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument(
        "--config",
        default="configs/ddgan_gaussians25.py",
        help="one of fully connected networks, whose width is changed",
    )
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE")
    parser.add_argument(
        "--step-ms", nargs="+", type=float, default=[0, 100], help="lengths of a step; 0: shortest"
    )
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the times to this file")


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    torch.set_num_threads(options.threads)
    set_up_cpu()
    with user_errors():
        clock = Clock(options.device, options.threads)
        record = {"device": device_name(options.device), "torch": torch.__version__, "runs": []}
        print(
            f"{record['device']}, PyTorch {torch.__version__}, {options.threads} thread(s), "
            f"{options.config}; milliseconds, mean of {options.iterations} iterations (median)"
        )
        for target in options.step_ms:
            cfg = load_config(ROOT / options.config, options.cfg_options)
            set_width(cfg, width_for(cfg, target, clock, options.device))
            record["runs"].append(measure_run(cfg, options))
            print_run(record["runs"][-1])
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def set_width(cfg: Config, width: int) -> None:
    """Change the width of both networks; raises UserError for networks without one."""
    for name in ("generator", "discriminator"):
        if not str(cfg.model.get(name, {}).get("type", "")).startswith("MLP"):
            raise UserError(
                f"model.{name} is {cfg.model.get(name)}; expected a config of two fully connected "
                "networks, such as configs/ddgan_gaussians25.py"
            )
        cfg.model[name].hidden_dim = width


def width_for(cfg: Config, milliseconds: float, clock: Clock, device: str) -> int:
    """Return the width of the networks whose step takes nearest to ``milliseconds``."""
    if milliseconds == 0:
        return WIDTHS[0]
    found = []
    for width in WIDTHS:
        set_width(cfg, width)
        model = MODELS.build(cfg.model).to(device)
        optimizers = build_optim_wrappers(cfg.optim_wrapper, model)
        x = torch.rand(cfg.train_dataloader.batch_size, *model.data_shape)
        if len(model.data_shape) == 3:
            x = (255 * x).to(torch.uint8)
        step = functools.partial(model.train_step, {"x": x}, optimizers)
        taken = measure({"step": step}, clock, 3)
        found.append((abs(taken["step"] - milliseconds), width))
        if taken["step"] > milliseconds:
            break
    return min(found)[1]


def measure_run(cfg: Config, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Train, and return the mean and median milliseconds of each part of an iteration."""
    cuda = options.device == "cuda"
    now = time.perf_counter if cuda else Clock(options.device, options.threads).now
    stopwatch = Stopwatch(now, torch.cuda.synchronize if cuda else lambda: None)
    cfg.device = options.device
    # The last iteration, in which all is due that is due at the end, is not counted.
    cfg.train_cfg.max_iters = WARM_UP + options.iterations + 1
    cfg.custom_hooks = []
    cfg.default_hooks.checkpoint.interval = cfg.train_cfg.max_iters
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        cfg.work_dir = folder
        runner = Runner.from_cfg(cfg)
        runner.register_hook(stopwatch, priority="HIGHEST")
        runner.register_hook(End(stopwatch), priority="LOWEST")
        runner.train()
    for _ in range(options.iterations):
        start = now()
        StepRandom(cfg.train_dataloader.batch_size, torch.device(options.device))
        stopwatch.parts["generators"].append(now() - start)
    return {
        name: (1e3 * statistics.mean(counted), 1e3 * statistics.median(counted))
        for name, seconds in stopwatch.parts.items()
        if name != "Adam" and name != "step"
        for counted in [seconds[-options.iterations - 1 : -1]]
    }


def print_run(times: dict[str, tuple[float, float]]) -> None:
    """Print one run's parts."""
    step = times["train step"]
    print(f"train step of {step[0]:.2f} ({step[1]:.2f}), in which")
    for name, what in (
        ("checks of updates", "norms, counts of skipped steps"),
        ("generators", "random generators"),
    ):
        print_part(what, times[name], step[0])
    print("beside it")
    hooks = {name: name for name in times if name.startswith("  ")}
    for name, what in (PARTS | hooks).items():
        print_part(what, times[name], step[0])


def print_part(what: str, part: tuple[float, float], step: float) -> None:
    """Print one part, and its share of the step."""
    print(f"  {what:34} {part[0]:8.3f} ({part[1]:.3f})  {part[0] / step:7.2%}")

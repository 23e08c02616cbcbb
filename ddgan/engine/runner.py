"""mmengine's runner, with what adversarial training on any machine needs."""

import errno
import itertools
import logging
import os
import sys
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import mmengine
import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner as MMRunner
from torch import nn

import ddgan
from ddgan.engine.checkpoint import (
    LAST_CHECKPOINT,
    changes_on_resume,
    list_checkpoints,
    load_state,
    load_weights,
    newest_good_checkpoint,
    read_checkpoint,
    read_weights,
    remove_left_overs,
    save_checkpoint,
)
from ddgan.engine.config import DEFAULT_HOOKS, config_to_json
from ddgan.engine.networks import compile_networks, ddp_modules
from ddgan.errors import CheckpointError, ConfigError, TrainingError
from ddgan.models import GenerativeModel
from ddgan.registry import RUNNERS
from ddgan.utils.distributed import (
    DEFAULT_TIMEOUT,
    init_process_group,
    lost_processes_named,
    select_device,
)
from ddgan.utils.files import lock, refusal, write_atomically

_runs = itertools.count()
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@RUNNERS.register_module()
class Runner(MMRunner):
    """Builds everything from a config and trains.

    Besides mmengine's: checkpoints are written atomically and read without running code, resuming
    takes the newest whole checkpoint, and processes on CPU-only machines can train together.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Choose the device and join the process group."""
        self.device = select_device(self.cfg.get("device", "auto"))
        if self.distributed and not torch.distributed.is_initialized():
            dist_cfg = env_cfg.get("dist_cfg", {})
            timeout = dist_cfg.get("timeout", DEFAULT_TIMEOUT)
            init_process_group(self.launcher, self.device, dist_cfg.get("backend"), timeout)
        if self.distributed:
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
                # mmengine would set them to this as well, with a warning from every process.
                os.environ.setdefault(name, "1")
        super().setup_env(env_cfg)
        # Private in mmengine 0.10.7 to 0.11: experiment, logger, visualizer and log folder have
        # their names from it, and two runs of one process in the same second must not share them.
        if count := next(_runs):
            self._timestamp += f"_{count}"

    def train(self) -> nn.Module:
        """Train and return the model; raises UserError if another run uses the folder."""
        with (
            lock(Path(self.work_dir) / "run.lock", str(self.work_dir))
            if self.rank == 0
            else nullcontext()
        ):
            if self.rank == 0:
                remove_left_overs(self.work_dir)
            try:
                with lost_processes_named():
                    return super().train()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise TrainingError(
                    f"a file of the run could not be written ({error}): free space for "
                    f"{self.work_dir}, then continue with --resume; checkpoints are untouched"
                ) from error

    @property
    def preempted(self) -> bool:
        """Whether training ended early since a signal asked for it."""
        return self.train_loop.preempted

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """mmengine's logger; a terminal or a disk that is gone is reported once, not per line."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            handler.handleError = partial(_report_once, handler, [])
            if hasattr(handler.stream, "reconfigure"):
                # Names of files need not be UTF-8.
                handler.stream.reconfigure(errors="backslashreplace")
        return logger

    def get_hooks_info(self) -> str:
        """Return the names of the hooks, where mmengine has forty lines for each log."""
        return ", ".join(type(hook).__name__ for hook in self.hooks)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Move the model to the device and, with several processes, wrap its networks in DDP."""
        model = model.to(self.device)
        if self.distributed and isinstance(model, GenerativeModel):
            model.ddp_modules = ddp_modules(model, self.device)
        return model

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Register this project's default hooks, changed or removed (None) by ``hooks``."""
        for name, hook in {**DEFAULT_HOOKS, **(hooks or {})}.items():
            if isinstance(hook, dict):
                hook = {**DEFAULT_HOOKS.get(name, {}), **hook}
            if hook is not None:
                self.register_hook(hook)

    def save_training_state(
        self, path: Path, iteration: int | None = None, newest: bool = True
    ) -> None:
        """Write everything that training needs to go on, from this process, atomically.

        ``iteration`` is the number of finished iterations; by default the current one is finished.
        ``newest`` makes it the checkpoint that ``resume`` finds.
        """
        loop = self.train_loop
        payload = {
            "meta": {
                "iter": loop.iter + 1 if iteration is None else iteration,
                "samples_seen": loop.samples_seen,
                "seed": self.seed,
                "world_size": self.world_size,
                "global_batch_size": loop.global_batch_size,
                "config": config_to_json(self.cfg),
                "version": ddgan.__version__,
                "torch": str(torch.__version__),
            },
            "state_dict": self.model.state_dict(),
            "optimizer": self.optim_wrapper.state_dict(),
            "param_schedulers": {
                name: [scheduler.state_dict() for scheduler in schedulers]
                for name, schedulers in (self.param_schedulers or {}).items()
            },
        }
        self.call_hook("before_save_checkpoint", checkpoint=payload)
        save_checkpoint(path, payload)
        if newest:
            write_atomically(path.with_name(LAST_CHECKPOINT), f"{path.name}\n")

    def load_or_resume(self) -> None:
        """Resume from the checkpoint asked for, or from the newest whole one, if there is any.

        Without ``resume``, ``load_from`` gives the weights that a new run begins with. Raises
        ConfigError if a new run would mix its checkpoints with those of an earlier one.
        """
        existing = list_checkpoints(self.work_dir)
        load_from = self.cfg.get("load_from")
        if not self.cfg.get("resume"):
            if existing:
                raise ConfigError(
                    f"{self.work_dir} has checkpoints up to {existing[-1].name}; add --resume to "
                    "continue from them, or choose another --work-dir for a new run"
                )
            if load_from:
                load_weights(self.model, read_weights(load_from)[1], load_from)
                self.logger.info(f"Training begins with the weights of {load_from}")
            return
        path = Path(load_from) if load_from else newest_good_checkpoint(self.work_dir)
        if path is None:
            self.logger.info(f"No checkpoint in {self.work_dir}: training starts at the beginning")
            return
        why = "which was asked for" if load_from else "the highest iteration that is whole"
        self.logger.info(f"{path} is taken, {why}; {self.work_dir} has {len(existing)} checkpoints")
        self.resume(str(path))

    def resume(self, filename: str) -> None:
        """Restore model, average, optimizers, schedulers, iteration and data position."""
        checkpoint = read_checkpoint(filename, map_location=self.device)
        try:
            meta, state = checkpoint["meta"], checkpoint["state_dict"]
            iteration, samples_seen = int(meta["iter"]), int(meta["samples_seen"])
            changes = changes_on_resume(self, meta)
        # A part of another form, in an altered file, raises nearly anything.
        except Exception as error:
            raise CheckpointError(
                f"{filename} lacks a part of a training checkpoint, or has it in another form "
                f"({type(error).__name__}: {refusal(error)}); resume from another one"
            ) from error
        load_state(self.model, state, filename)
        try:
            self._load_optimizers(checkpoint)
        except Exception as error:
            raise CheckpointError(
                f"{filename} does not fit the optimizers and schedulers of the config "
                f"({refusal(error)}); resume with the config that it was trained with, or begin a "
                f"new run with its weights alone: --cfg-options load_from={filename}"
            ) from error
        self.train_loop.resume(iteration, samples_seen)
        self.logger.info(f"Resumed from {filename} at iteration {iteration}")
        for change in changes:
            self.logger.warning(change)

    def _load_optimizers(self, checkpoint: dict) -> None:
        self.optim_wrapper.load_state_dict(checkpoint["optimizer"])
        for name, states in checkpoint["param_schedulers"].items():
            for scheduler, state in zip(self.param_schedulers[name], states, strict=True):
                scheduler.load_state_dict(state)

    # Private in mmengine 0.10.7 to 0.11, which would compile the whole train step: R1 needs second
    # derivatives, which a compiled graph lacks.
    def _maybe_compile(self, target: str) -> None:
        if self.cfg.get("compile", False):
            compile_networks(self.model)
            self.logger.info("Networks are compiled: the first iterations take a minute or two")

    # Private in mmengine 0.10.7 to 0.11, whose report imports torchvision and OpenCV to print their
    # versions.
    def _log_env(self, env_cfg: dict) -> None:
        device = str(self.device)
        if self.device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(self.device)})"
        self.logger.info(
            f"ddgan {ddgan.__version__}, torch {torch.__version__}, mmengine "
            f"{mmengine.__version__}, Python {sys.version.split()[0]}, device {device}, "
            f"{self.world_size} process(es), {torch.get_num_threads()} CPU thread(s), "
            f"seed {self.seed}"
        )
        if self.logger.isEnabledFor(logging.DEBUG):  # Formatting takes a good part of a second.
            self.logger.debug(f"Config:\n{self.cfg.pretty_text}")


def _report_once(handler: logging.Handler, reported: list[bool], record: logging.LogRecord) -> None:
    if not reported:
        reported.append(True)
        with suppress(OSError, ValueError):
            print(
                f"the log cannot be written to {handler} ({sys.exc_info()[1]}); training goes on",
                file=sys.stderr,
            )

"""Metrics during training, and the best checkpoint by one of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ddgan.engine.hooks import at_least_one, failures_reported, is_due
from ddgan.errors import ConfigError
from ddgan.evaluation.evaluator import (
    EvaluationOptions,
    Evaluator,
    Result,
    build_metrics,
    reference_dataset,
)
from ddgan.evaluation.records import config_name, read_record, record_path, write_record
from ddgan.registry import HOOKS
from ddgan.utils.files import check_writable


@HOOKS.register_module()
class EvaluateMetrics(Hook):
    """Measure metrics of the averaged generator every ``interval`` iterations and at the end.

    ``metric`` is a name, or several, as in ``tools/test.py --metric``. Each value goes to
    TensorBoard and each result to a record ``iter_N_<metric>.json`` in the run's folder. The
    checkpoint with the best value ``best`` (by default that of the first metric) is kept as
    ``best_<value>.pth``; metrics say which way is better, ``lower_is_better`` says it for values
    of which they do not. ``num`` replaces the metrics' own numbers of samples.
    """

    priority = "LOWEST"  # after the checkpoint, which must not depend on it

    def __init__(
        self,
        metric: str | Sequence[str],
        interval: int = 10_000,
        num: int | None = None,
        seed: int = 0,
        batch_size: int = 100,
        best: str | None = None,
        lower_is_better: bool | None = None,
    ):
        self.names = [metric] if isinstance(metric, str) else list(metric)
        if not self.names:
            raise ValueError("EvaluateMetrics: metric is empty; expected at least one name")
        self.interval = at_least_one("EvaluateMetrics: interval", interval)
        self.num = None if num is None else at_least_one("EvaluateMetrics: num", num)
        self.seed = seed
        self.batch_size = at_least_one("EvaluateMetrics: batch_size", batch_size)
        self.best = best or self.names[0]
        self.lower_is_better = lower_is_better
        self._due = False
        self._best: Result | None = None

    def check(self, config: Config) -> dict[str, Any]:
        """The metrics; raises UserError if they do not exist, have too few samples or no best."""
        metrics = build_metrics(self.names, config.get("evaluation", {}))
        if self.lower_is_better is None:
            self.lower_is_better = not _higher_is_better(metrics, self.best)
        options = EvaluationOptions(num=self.num)
        Evaluator(metrics, lambda: reference_dataset(config), {}, options).check_sizes()
        check_writable(config.work_dir)
        return metrics

    def before_train(self, runner: Runner) -> None:
        """Load extractors and reference sets, and the best result so far of a resumed run."""
        config = runner.cfg
        metrics = self.check(config)
        loader = runner.train_loop.dataloader

        def open_dataset():
            return reference_dataset(config) if "evaluation_dataset" in config else loader.dataset

        options = EvaluationOptions(
            num=self.num, seed=self.seed, batch_size=self.batch_size, num_workers=loader.num_workers
        )
        self._evaluator = Evaluator(metrics, open_dataset, config.model.to_dict(), options)
        self._evaluator.prepare(runner.model)
        if runner.train_loop.iter > 0:
            self._best = self._recorded_best(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        """Measure when it is due; all processes take part."""
        if runner.train_loop.preempted:
            return  # There is little time left, and the checkpoint needs it.
        done = batch_idx + 1
        self._due |= is_due(runner, done, self.interval)
        # In the middle of accumulated gradients the best state could not be saved completely.
        if not (self._due and runner.train_loop.window_ended):
            return
        self._due = False
        results: dict[str, Result] = {}
        with failures_reported(runner, "Evaluation"):
            self._evaluator.run(runner.model, results.__setitem__)
            if is_main_process():
                self._publish(runner, done, results)

    def _publish(self, runner: Runner, done: int, results: dict[str, Result]) -> None:
        scalars: dict[str, float] = {}
        for name, result in results.items():
            result.protocol.update(
                iteration=done,
                config=config_name(runner.cfg),
                images_seen=runner.train_loop.samples_seen,
                global_batch_size=runner.train_loop.global_batch_size,
            )
            path = Path(runner.work_dir) / f"iter_{done}.pth"
            write_record(path, name, result.values, result.protocol, result.version)
            for key, value in result.values.items():
                if isinstance(value, (int, float)):
                    scalars[f"metrics/{name}" if key == name else f"metrics/{name}_{key}"] = value
        runner.visualizer.add_scalars(scalars, step=done)
        listed = "  ".join(f"{key.removeprefix('metrics/')} {v:.4g}" for key, v in scalars.items())
        runner.logger.info(f"iter {done}  {listed}")
        result = next((one for one in results.values() if self.best in one.values), None)
        if result is None:
            raise ConfigError(
                f"EvaluateMetrics: no metric has a value {self.best!r}; expected one of "
                f"{sorted({key for one in results.values() for key in one.values})}"
            )
        self._keep_if_best(runner, result)

    def _keep_if_best(self, runner: Runner, result: Result) -> None:
        value, comparable = result.values[self.best], _comparable(result)
        if value != value:
            return
        if self._best is not None and _comparable(self._best) == comparable:
            before = self._best.values[self.best]
            if not (value < before if self.lower_is_better else value > before):
                return
        path = self._best_path(runner)
        runner.save_training_state(path, newest=False)
        write_record(path, self.best, result.values, result.protocol, result.version)
        self._best = result
        runner.logger.info(f"Saved {path}, the best {self.best} so far: {value:.4g}")

    def _best_path(self, runner: Runner) -> Path:
        return Path(runner.work_dir) / f"best_{self.best}.pth"

    def _recorded_best(self, runner: Runner) -> Result | None:
        path = self._best_path(runner)
        record = read_record(record_path(path, self.best)) if path.is_file() else None
        if not record or not isinstance(record["values"].get(self.best), (int, float)):
            return None
        return Result(record["values"], record["protocol"], record["version"])


def _comparable(result: Result) -> dict[str, Any]:
    """What has to be equal for two values to compare."""
    keys = ("num", "seed", "ema", "extractor", "real", "settings")
    return {"version": result.version, **{key: result.protocol.get(key) for key in keys}}


def _higher_is_better(metrics: dict[str, Any], value: str) -> bool:
    known: dict[str, bool] = {}
    for metric in metrics.values():
        known |= getattr(metric, "higher_is_better", {})
    if value not in known:
        raise ConfigError(
            f"EvaluateMetrics: best is {value!r}, but the metrics do not say which way it is "
            f"better; set lower_is_better to True or False, or best to one of {sorted(known)}"
        )
    return known[value]

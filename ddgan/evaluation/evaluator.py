"""Evaluation of a model: every metric asked for, from one series of samples."""

import datetime
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, get_world_size, is_main_process
from torch.utils.data import Dataset

from ddgan.errors import UserError
from ddgan.evaluation.feature_group import FeatureGroup, extractor_key
from ddgan.evaluation.feature_metrics import DEFAULT_METRICS, FeatureMetric
from ddgan.evaluation.real_data import Progress, no_progress
from ddgan.evaluation.sampled_features import Series, draw_series
from ddgan.evaluation.sampling_time import ModelMetric, count_evaluations
from ddgan.evaluation.shards import ShardCache, own_shards, shard_length
from ddgan.evaluation.stored_tensors import Tensors
from ddgan.evaluation.weights import parameters_digest
from ddgan.models import GenerativeModel
from ddgan.models.base import check_shapes
from ddgan.registry import DATASETS, METRICS

MODEL_METRICS = {"time": {"type": "SamplingTime"}, "nfe": {"type": "FunctionEvaluations"}}
# The key of the series of samples themselves, beside those of extractors.
_RAW = ""


@dataclass(frozen=True)
class EvaluationOptions:
    """How a model is evaluated.

    ``num`` takes the place of each metric's own number of samples. Features of samples are kept
    below ``features_root`` (None: nowhere) until all metrics are done, or for good. ``real_file``
    takes the place of the data set, and ``export`` is where to write what the data set gave.
    """

    num: int | None = None
    seed: int = 0
    batch_size: int = 100
    use_ema: bool = True
    features_root: Path | None = None
    keep_features: bool = False
    real_file: Path | None = None
    export: Path | None = None
    num_workers: int = 0
    progress: Progress = no_progress


@dataclass(frozen=True)
class Result:
    """A metric's values, how they were measured, and the version of the metric."""

    values: dict[str, Any]
    protocol: dict[str, Any]
    version: str


def build_metrics(names: Iterable[str], own: Mapping[str, Mapping]) -> dict[str, Any]:
    """Return the metrics of these names; names with equal configs share one metric.

    ``own`` is a config's ``evaluation``, which adds names and changes those of the package: an
    entry without a type changes arguments. Raises UserError for a name that does not exist.
    """
    known: dict[str, dict] = {**DEFAULT_METRICS, **MODEL_METRICS}
    for name, config in own.items():
        known[name] = dict(config) if "type" in config else {**known.get(name, {}), **config}
    if unknown := sorted(set(names) - set(known)):
        raise UserError(
            f"--metric {unknown} is not in the config's evaluation, which has {sorted(own)}, nor "
            f"among {sorted(known.keys() - own.keys())}"
        )
    keys = {name: json.dumps(known[name], sort_keys=True, default=str) for name in names}
    built = {key: METRICS.build(known[name]) for name, key in keys.items()}
    return {name: built[key] for name, key in keys.items()}


def reference_dataset(config: Mapping[str, Any]) -> Dataset:
    """Return the data set that samples are compared with.

    It is ``evaluation_dataset`` of a config, or else the one that it trains on.
    """
    chosen = config.get("evaluation_dataset") or config.get("train_dataloader", {}).get("dataset")
    if chosen is None:
        raise UserError(
            "the config has neither an evaluation_dataset nor a train_dataloader to compare the "
            "samples with; name a config, or a file of statistics with --real"
        )
    return DATASETS.build(chosen)


class Evaluator:
    """Measures metrics, by name, of models with one config; extractors are loaded once.

    ``sampler`` is the model's config, which tells its samples from others of the same weights.
    ``open_dataset`` is called where a metric needs real images and no file stands for them.
    """

    def __init__(
        self,
        metrics: Mapping[str, Any],
        open_dataset: Callable[[], Dataset],
        sampler: Mapping[str, Any],
        options: EvaluationOptions,
    ):
        self.metrics = metrics
        self.open_dataset = open_dataset
        self.sampler = json.dumps(sampler, sort_keys=True, default=str)
        self.options = options
        self.groups: dict[str, FeatureGroup] | None = None

    def prepare(self, model: GenerativeModel) -> None:
        """Load the extractors, and compute what metrics compare with; all processes call this."""
        members: dict[str, dict[str, FeatureMetric]] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, FeatureMetric):
                _check_images(name, model)
                members.setdefault(extractor_key(metric), {})[name] = metric
        self.groups = {key: FeatureGroup(metrics) for key, metrics in members.items()}
        for group in self.groups.values():
            group.build(model.device)
        comparing = [group for group in self.groups.values() if group.needs_real]
        options = self.options
        if options.export and len(comparing) != 1:
            raise UserError(
                f"--export-real is of one extractor; the metrics compare with {len(comparing)}"
            )
        if options.real_file and not comparing:
            raise UserError(
                f"--real {options.real_file} is given, but none of {sorted(self.metrics)} compares "
                "with real images; leave it out"
            )
        if options.real_file:
            for group in comparing:
                group.use_file(options.real_file)
        elif comparing:
            dataset = self.open_dataset()
            check_shapes(dataset, model)
            for group in comparing:
                group.use_dataset(
                    dataset, options.num_workers, options.progress, bool(options.export)
                )
        if options.export and is_main_process():
            comparing[0].export(options.export)

    def run(self, model: GenerativeModel, report: Callable[[str, Result], None]) -> None:
        """Measure, and call ``report(name, result)`` on the main process as each metric is done.

        All processes share the work and have to call this.
        """
        if self.groups is None:
            self.prepare(model)
        protocol = protocol_of(model, self.options)
        for name, metric in self.metrics.items():
            if isinstance(metric, ModelMetric):
                if is_main_process():
                    values = metric(model, self.options.use_ema)
                    report(name, Result(values, protocol, metric.version))
                # Others that sample at the same time would slow it down.
                barrier()
        series = self._series(model)
        if not series:
            return
        drawn = self._draw(model, series)
        if is_main_process():
            self._report(model, drawn, protocol, report)
            if not self.options.keep_features:
                for one in series.values():
                    one.cache.remove()

    def _num(self, metric: Any) -> int:
        return self.options.num or metric.num

    def _series(self, model: GenerativeModel) -> dict[str, Series]:
        """Return the series of samples and features to draw, by key."""
        samples = {
            "generator": parameters_digest(
                model.generator_ema if self.options.use_ema else model.generator
            ),
            "ema": self.options.use_ema,
            "sampler": self.sampler,
            "seed": self.options.seed,
            "device": model.device.type,
        }
        nums: dict[str, int] = {}
        for metric in self.metrics.values():
            if not isinstance(metric, ModelMetric):
                key = _series_key(metric)
                nums[key] = max(nums.get(key, 0), self._num(metric))
        series = {}
        for key, num in nums.items():
            group = self.groups.get(key)
            identity = {**samples, **(group.identity if group else {"extractor": None})}
            cache = ShardCache(self.options.features_root, identity)
            series[key] = Series(num, group.extractor if group else None, cache)
        return series

    def _draw(self, model: GenerativeModel, series: Mapping[str, Series]) -> dict[str, Tensors]:
        total = max(one.num for one in series.values())
        mine = sum(shard_length(total, shard) for shard in own_shards(total))
        label = "sampling" if get_world_size() == 1 else f"sampling, share 1/{get_world_size()}"
        options = self.options
        with options.progress(label, mine) as advance:
            return draw_series(
                model, series, options.seed, options.batch_size, options.use_ema, advance
            )

    def _report(
        self,
        model: GenerativeModel,
        drawn: Mapping[str, Tensors],
        protocol: dict[str, Any],
        report: Callable[[str, Result], None],
    ) -> None:
        done: dict[int, dict[str, Any]] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, ModelMetric):
                continue
            num, key = self._num(metric), _series_key(metric)
            tensors = {n: value[:num] for n, value in drawn[key].items()}
            group = self.groups.get(key)
            if id(metric) not in done:
                done[id(metric)] = (
                    group.values(metric, tensors, model.device)
                    if group
                    else dict(metric(tensors["samples"].to(model.device)))
                )
            sources = group.sources(metric) if group else {}
            version = getattr(metric, "version", "1")
            report(name, Result(done[id(metric)], {"num": num, **protocol, **sources}, version))


def protocol_of(model: GenerativeModel, options: EvaluationOptions) -> dict[str, Any]:
    """Return what the records of all metrics of an evaluation have in common."""
    name = platform.processor() or platform.machine()
    if model.device.type == "cuda":
        name = torch.cuda.get_device_name(model.device)
    sampling = {"model": type(model).__name__, "batch_size": options.batch_size}
    if (truncation := getattr(model, "truncation", None)) is not None:
        sampling["truncation"] = truncation
    return {
        "seed": options.seed,
        "ema": options.use_ema,
        "nfe": count_evaluations(model, options.use_ema),
        "sampling": sampling,
        "device": str(model.device),
        "device_name": name,
        "cpu_threads": torch.get_num_threads(),
        "processes": get_world_size(),
        "torch": str(torch.__version__),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _series_key(metric: Any) -> str:
    return extractor_key(metric) if isinstance(metric, FeatureMetric) else _RAW


def _check_images(name: str, model: GenerativeModel) -> None:
    shape = tuple(model.data_shape)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(
            f"--metric {name} is of images with 1 or 3 channels; the model makes samples of "
            f"shape {shape}"
        )

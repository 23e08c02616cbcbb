"""The evaluator: measures metrics of a model, all from one set of samples."""

import datetime
import functools
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, get_world_size, is_main_process
from torch import Tensor, nn
from torch.utils.data import Dataset

from ddgan.errors import UserError
from ddgan.evaluation.cache import ShardCache, Tensors, cache_root
from ddgan.evaluation.features import (
    FeatureRequest,
    Progress,
    compute_features,
    concatenate,
    no_progress,
)
from ddgan.evaluation.metrics import DEFAULT_METRICS, FeatureMetric
from ddgan.evaluation.pretrained import parameters_digest
from ddgan.evaluation.reference import Reference, dataset_reference, source_of
from ddgan.evaluation.reference_files import read_reference, write_reference
from ddgan.evaluation.sampling_time import ModelMetric, count_evaluations
from ddgan.models import GenerativeModel
from ddgan.models.base import check_shapes
from ddgan.registry import DATASETS, METRICS, MODELS
from ddgan.utils.distributed import failing_together


@dataclass(frozen=True)
class EvaluationOptions:
    """How a model is evaluated.

    ``num`` replaces each metric's own number of samples. Features of samples are kept below
    ``features_root`` (None: nowhere) until all metrics are done, or for good with
    ``keep_features``. ``real_file`` replaces the data set; what the data set gave is written to
    ``export``.
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


@dataclass
class _Group:
    """The metrics, by name, that take the same features of samples, or the samples themselves."""

    metrics: dict[str, Any] = field(default_factory=dict)
    extractor: nn.Module | None = None
    jpeg: int | None = None
    reference: Reference | None = None

    @property
    def names(self) -> dict[str, str] | None:
        """What distinguishes the extractor's features of some images from those of others."""
        if self.extractor is None:
            return None
        return {"name": self.extractor.name, "digest": self.extractor.weights_digest}

    @property
    def comparing(self) -> dict[str, FeatureMetric]:
        """The metrics that compare features with those of real images."""
        needing = {n: m for n, m in self.metrics.items() if isinstance(m, FeatureMetric)}
        return {name: metric for name, metric in needing.items() if metric.needs != "nothing"}


def build_metrics(names: Iterable[str], own: Mapping[str, Mapping]) -> dict[str, Any]:
    """Build the metrics of these names; names with equal configs share one metric.

    ``own`` is a config's ``evaluation``: it adds names, and an entry without a type changes
    arguments of a metric of the package. Raises UserError for a name that does not exist.
    """
    known: dict[str, dict] = dict(DEFAULT_METRICS)
    for name, config in own.items():
        known[name] = dict(config) if "type" in config else {**known.get(name, {}), **config}
    if unknown := sorted(set(names) - set(known)):
        raise UserError(
            f"--metric {unknown} is not in the config's evaluation, which has {sorted(own)}, nor "
            f"among {sorted(known.keys() - own.keys())}"
        )
    keys = {name: _text(known[name]) for name in names}
    built = {key: METRICS.build(known[name]) for name, key in keys.items()}
    return {name: built[key] for name, key in keys.items()}


def reference_dataset(config: Mapping[str, Any]) -> Dataset:
    """Build the data set to compare with: ``evaluation_dataset``, or else the training data."""
    chosen = config.get("evaluation_dataset") or config.get("train_dataloader", {}).get("dataset")
    if chosen is None:
        raise UserError(
            "the config has neither an evaluation_dataset nor a train_dataloader to compare the "
            "samples with; name a config, or a file of statistics with --real"
        )
    return DATASETS.build(chosen)


class Evaluator:
    """Measures metrics, by name, of models with one config; extractors are loaded once.

    ``sampler`` is the model's config: the same weights may be sampled in several ways.
    ``open_dataset`` is called if a metric needs real images and no file replaces them.
    """

    def __init__(
        self,
        metrics: Mapping[str, Any],
        open_dataset: Callable[[], Dataset],
        sampler: Mapping[str, Any],
        options: EvaluationOptions,
    ):
        self.metrics = metrics
        self.open_dataset = functools.cache(open_dataset)
        self.sampler = _text(sampler)
        self.options = options
        self._groups: dict[str, _Group] | None = None

    def prepare(self, model: GenerativeModel) -> None:
        """Load the extractors and the reference sets; all processes call this.

        Raises UserError for metrics, model, data and files that do not fit together.
        """
        self.check_sizes()
        groups: dict[str, _Group] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, FeatureMetric):
                _check_images(name, model)
            if not isinstance(metric, ModelMetric):
                groups.setdefault(_key(metric), _Group()).metrics[name] = metric
            if use_dataset := getattr(metric, "use_dataset", None):
                use_dataset(self.open_dataset())
        for group in groups.values():
            metric = next(iter(group.metrics.values()))
            if isinstance(metric, FeatureMetric):
                group.jpeg = metric.jpeg
                group.extractor = _on_main_process_first(MODELS.build, metric.extractor)
                group.extractor.to(model.device).eval()
        self._find_references(model, [group for group in groups.values() if group.comparing])
        self._groups = groups

    def _find_references(self, model: GenerativeModel, groups: list[_Group]) -> None:
        options = self.options
        if options.export and len(groups) != 1:
            raise UserError(
                f"--export-real is of one extractor; the metrics compare with {len(groups)}"
            )
        if options.real_file and not groups:
            raise UserError(
                f"--real {options.real_file} is given, but none of {sorted(self.metrics)} compares "
                "with real images; leave it out"
            )
        if groups and not options.real_file:
            check_shapes(self.open_dataset(), model)
        for group in groups:
            group.reference = (
                self._read_file(group) if options.real_file else self._of_dataset(group)
            )
        if options.export and is_main_process():
            write_reference(options.export, groups[0].reference, groups[0].names)

    def check_sizes(self) -> None:
        """Raise UserError for a metric that needs more samples than it is given."""
        for name, metric in self.metrics.items():
            least = getattr(metric, "least", 1)
            if not isinstance(metric, ModelMetric) and self._num(metric) < least:
                raise UserError(
                    f"metric {name!r} is to be measured on {self._num(metric)} samples and needs "
                    f"at least {least}; choose a larger num"
                )

    def _read_file(self, group: _Group) -> Reference:
        path = self.options.real_file
        reference = read_reference(path, group.extractor.feature_dim, group.names)
        for name, metric in group.comparing.items():
            if metric.needs == "features" and reference.features is None:
                raise UserError(
                    f"--metric {name} compares single features, and --real {path} has only mu and "
                    "sigma; leave --real out, or write a file with --export-real"
                )
        return reference

    def _of_dataset(self, group: _Group) -> Reference:
        dataset, metrics = self.open_dataset(), group.comparing.values()
        for name, metric in group.comparing.items():
            used = min(metric.num_real or len(dataset), len(dataset))
            if used < metric.least:
                raise UserError(
                    f"metric {name!r} compares with {used} images and needs at least "
                    f"{metric.least}; use more data, or a larger num_real"
                )
        return dataset_reference(
            dataset,
            group.extractor,
            group.names,
            self.options.export is not None or any(m.needs == "statistics" for m in metrics),
            max(
                (
                    min(metric.num_real or len(dataset), len(dataset))
                    for metric in metrics
                    if metric.needs == "features"
                ),
                default=0,
            ),
            cache_root() / "real",
            self.options.num_workers,
            self.options.progress,
        )

    def run(self, model: GenerativeModel, report: Callable[[str, Result], None]) -> None:
        """Measure, and call ``report(name, result)`` on the main process as each metric is done.

        All processes share the work and have to call this.
        """
        if self._groups is None:
            self.prepare(model)
        with failing_together():
            protocol = protocol_of(model, self.options)
            requests = {key: self._request(model, group) for key, group in self._groups.items()}
        for name, metric in self.metrics.items():
            if isinstance(metric, ModelMetric):
                # The others wait: if they sampled at the same time, they would slow it down.
                with failing_together():
                    if is_main_process():
                        values = metric(model, self.options.use_ema)
                        report(name, Result(values, protocol, metric.version))
        if not self._groups:
            return
        features = self._features(model, requests)
        if not is_main_process():
            return
        done: dict[int, dict[str, Any]] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, ModelMetric):
                continue
            group = self._groups[_key(metric)]
            if id(metric) not in done:
                done[id(metric)] = self._measure(metric, group, features[_key(metric)], model)
            details = {"num": self._num(metric), **protocol, **_details(metric, group)}
            report(name, Result(done[id(metric)], details, getattr(metric, "version", "1")))
        if not self.options.keep_features:
            for request in requests.values():
                request.cache.remove()

    def _num(self, metric: Any) -> int:
        return self.options.num or metric.num

    def _request(self, model: GenerativeModel, group: _Group) -> FeatureRequest:
        options = self.options
        identity = {
            "generator": parameters_digest(
                model.generator_ema if options.use_ema else model.generator
            ),
            "ema": options.use_ema,
            "sampler": self.sampler,
            "seed": options.seed,
            "device": model.device.type,
            "extractor": group.names,
        }
        if group.jpeg is not None:
            identity["jpeg"] = group.jpeg
        num = max(map(self._num, group.metrics.values()))
        cache = ShardCache(options.features_root, identity)
        return FeatureRequest(num, group.extractor, cache, group.jpeg)

    def _features(
        self, model: GenerativeModel, requests: Mapping[str, FeatureRequest]
    ) -> dict[str, Tensors]:
        options, world_size = self.options, get_world_size()

        def images(batches: list[range]) -> Iterator[Tensor]:
            for batch in batches:
                yield model.sample(
                    len(batch),
                    seed=options.seed,
                    batch_size=len(batch),
                    first_index=batch.start,
                    use_ema=options.use_ema,
                )

        label = "sampling" if world_size == 1 else f"sampling, share 1/{world_size}"
        shards = list(
            compute_features(images, requests, options.batch_size, label, options.progress)
        )
        return {
            name: concatenate([shard[name] for shard in shards if name in shard])
            for name in (requests if shards else ())
        }

    def _measure(
        self, metric: Any, group: _Group, features: Tensors, model: GenerativeModel
    ) -> dict[str, Any]:
        fake = {n: x[: self._num(metric)].to(model.device) for n, x in features.items()}
        if not isinstance(metric, FeatureMetric):
            return dict(metric(fake["samples"]))
        real = None
        if metric.needs == "statistics":
            real = group.reference.statistics
        elif metric.needs == "features":
            real = {"features": group.reference.features[: metric.num_real].to(model.device)}
        return dict(metric(fake, real))


def protocol_of(model: GenerativeModel, options: EvaluationOptions) -> dict[str, Any]:
    """What the records of all metrics of an evaluation have in common."""
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


def _details(metric: Any, group: _Group) -> dict[str, Any]:
    """What a record says of a metric's settings, its extractor and the real images."""
    details: dict[str, Any] = {}
    if group.extractor is not None:
        details["extractor"] = group.names
    if isinstance(metric, FeatureMetric) and metric.needs != "nothing":
        used = group.reference.num or None
        if metric.needs == "features":
            used = len(group.reference.features[: metric.num_real])
        details["real"] = {**group.reference.source, "used": used}
    elif (dataset := getattr(metric, "dataset", None)) is not None:
        details["real"] = source_of(dataset)
    settings = dict(getattr(metric, "settings", {}))
    if group.jpeg is not None:
        settings["jpeg"] = group.jpeg
    return {**details, "settings": settings} if settings else details


def _key(metric: Any) -> str:
    """The same text for all metrics that take the same features."""
    if not isinstance(metric, FeatureMetric):
        return "samples"
    return _text({"extractor": metric.extractor, "jpeg": metric.jpeg})


def _text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, default=str)


def _check_images(name: str, model: GenerativeModel) -> None:
    shape = tuple(model.data_shape)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(
            f"--metric {name} is of images with 1 or 3 channels; the model makes samples of "
            f"shape {shape}"
        )


def _on_main_process_first(build: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    """Build on the main process before the others do, so that it alone downloads weights."""
    if not is_main_process():
        barrier()
        return build(*arguments)
    built = build(*arguments)
    barrier()
    return built

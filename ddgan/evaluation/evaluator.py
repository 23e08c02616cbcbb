"""The evaluator: measures metrics of a model, all from one set of samples."""

import datetime
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, get_world_size, is_main_process
from torch import nn
from torch.utils.data import Dataset

from ddgan.errors import UserError
from ddgan.evaluation.cache import ShardCache, Tensors, cache_root
from ddgan.evaluation.features import (
    FeatureRequest,
    Progress,
    no_progress,
    own_shards,
    sample_features,
    shard_length,
)
from ddgan.evaluation.metrics import DEFAULT_METRICS, FeatureMetric, ModelMetric
from ddgan.evaluation.reference import (
    Reference,
    dataset_reference,
    read_reference,
    write_reference,
)
from ddgan.evaluation.sampling_time import count_evaluations
from ddgan.evaluation.weights import parameters_digest
from ddgan.models import GenerativeModel
from ddgan.models.base import check_shapes
from ddgan.registry import DATASETS, METRICS, MODELS

# The key of the samples themselves, among the keys of extractors.
_SAMPLES = ""


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
class _ExtractorGroup:
    """The metrics of one extractor, by name, with what they share."""

    metrics: dict[str, FeatureMetric] = field(default_factory=dict)
    extractor: nn.Module | None = None
    reference: Reference | None = None

    @property
    def names(self) -> dict[str, str]:
        """What distinguishes the extractor's features of some images from those of others."""
        return {"name": self.extractor.name, "digest": self.extractor.weights_digest}

    @property
    def comparing(self) -> dict[str, FeatureMetric]:
        """The metrics that compare with real images."""
        return {name: one for name, one in self.metrics.items() if one.needs != "nothing"}


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
        self.open_dataset = open_dataset
        self.sampler = _text(sampler)
        self.options = options
        self._groups: dict[str, _ExtractorGroup] | None = None

    def prepare(self, model: GenerativeModel) -> None:
        """Load the extractors and the reference sets; all processes call this.

        Raises UserError for metrics, model, data and files that do not fit together.
        """
        groups: dict[str, _ExtractorGroup] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, FeatureMetric):
                _check_images(name, model)
                groups.setdefault(_key(metric), _ExtractorGroup()).metrics[name] = metric
        for group in groups.values():
            config = next(iter(group.metrics.values())).extractor
            group.extractor = _on_main_process_first(MODELS.build, config).to(model.device).eval()
        comparing = [group for group in groups.values() if group.comparing]
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
                self._read_file(group, options.real_file)
        elif comparing:
            dataset = self.open_dataset()
            check_shapes(dataset, model)
            for group in comparing:
                self._use_dataset(group, dataset)
        if options.export and is_main_process():
            write_reference(options.export, comparing[0].reference, comparing[0].names)
        self._groups = groups

    def _read_file(self, group: _ExtractorGroup, path: Path) -> None:
        group.reference = read_reference(path, group.extractor.feature_dim, group.names)
        for name, metric in group.comparing.items():
            if metric.needs == "features" and group.reference.features is None:
                raise UserError(
                    f"--metric {name} compares single features, and --real {path} has only mu and "
                    "sigma; leave --real out, or write a file with --export-real"
                )

    def _use_dataset(self, group: _ExtractorGroup, dataset: Dataset) -> None:
        needs = [metric.needs for metric in group.comparing.values()]
        sizes = [
            min(metric.num_real or len(dataset), len(dataset))
            for metric in group.comparing.values()
            if metric.needs == "features"
        ]
        group.reference = dataset_reference(
            dataset,
            group.extractor,
            {"extractor": group.names},
            "statistics" in needs or self.options.export is not None,
            max(sizes, default=0),
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
        protocol = protocol_of(model, self.options)
        for name, metric in self.metrics.items():
            if isinstance(metric, ModelMetric):
                if is_main_process():
                    values = metric(model, self.options.use_ema)
                    report(name, Result(values, protocol, metric.version))
                # Others that sample at the same time would slow it down.
                barrier()
        requests = self._requests(model)
        if not requests:
            return
        features = self._features(model, requests)
        if is_main_process():
            self._report(model, features, protocol, report)
            if not self.options.keep_features:
                for request in requests.values():
                    request.cache.remove()

    def _num(self, metric: Any) -> int:
        return self.options.num or metric.num

    def _requests(self, model: GenerativeModel) -> dict[str, FeatureRequest]:
        generator = model.generator_ema if self.options.use_ema else model.generator
        samples = {
            "generator": parameters_digest(generator),
            "ema": self.options.use_ema,
            "sampler": self.sampler,
            "seed": self.options.seed,
            "device": model.device.type,
        }
        nums: dict[str, int] = {}
        for metric in self.metrics.values():
            if not isinstance(metric, ModelMetric):
                nums[_key(metric)] = max(nums.get(_key(metric), 0), self._num(metric))
        requests = {}
        for key, num in nums.items():
            group = self._groups.get(key)
            identity = {**samples, "extractor": group.names if group else None}
            cache = ShardCache(self.options.features_root, identity)
            requests[key] = FeatureRequest(num, group.extractor if group else None, cache)
        return requests

    def _features(
        self, model: GenerativeModel, requests: Mapping[str, FeatureRequest]
    ) -> dict[str, Tensors]:
        total = max(request.num for request in requests.values())
        own = sum(shard_length(total, shard) for shard in own_shards(total))
        label = "sampling" if get_world_size() == 1 else f"sampling, share 1/{get_world_size()}"
        options = self.options
        with options.progress(label, own) as advance:
            return sample_features(
                model, requests, options.seed, options.batch_size, options.use_ema, advance
            )

    def _report(
        self,
        model: GenerativeModel,
        features: Mapping[str, Tensors],
        protocol: dict[str, Any],
        report: Callable[[str, Result], None],
    ) -> None:
        done: dict[int, dict[str, Any]] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, ModelMetric):
                continue
            num, group = self._num(metric), self._groups.get(_key(metric))
            if id(metric) not in done:
                fake = {n: x[:num].to(model.device) for n, x in features[_key(metric)].items()}
                done[id(metric)] = dict(
                    metric(fake, _real(metric, group.reference, model.device))
                    if group
                    else metric(fake["samples"])
                )
            sources = _sources(metric, group) if group else {}
            if settings := getattr(metric, "settings", None):
                sources["settings"] = settings
            version = getattr(metric, "version", "1")
            report(name, Result(done[id(metric)], {"num": num, **protocol, **sources}, version))


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


def _real(metric: FeatureMetric, reference: Reference | None, device: torch.device) -> Any:
    if metric.needs == "nothing":
        return None
    if metric.needs == "statistics":
        return reference.statistics
    return {"features": reference.features[: metric.num_real].to(device)}


def _sources(metric: FeatureMetric, group: _ExtractorGroup) -> dict[str, Any]:
    """What a record says of the extractor and of the real images."""
    if metric.needs == "nothing":
        return {"extractor": group.names}
    used = group.reference.num or None
    if metric.needs == "features":
        used = len(group.reference.features[: metric.num_real])
    return {"extractor": group.names, "real": {**group.reference.source, "used": used}}


def _key(metric: Any) -> str:
    """The same text for all metrics of one extractor."""
    return _text(metric.extractor) if isinstance(metric, FeatureMetric) else _SAMPLES


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

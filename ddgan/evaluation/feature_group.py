"""The metrics of one feature extractor: its network and the real images are shared by them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from torch import nn
from torch.utils.data import Dataset

from ddgan.errors import UserError
from ddgan.evaluation.feature_metrics import FeatureMetric
from ddgan.evaluation.real_data import Progress, Reference, real_reference
from ddgan.evaluation.reference_files import read_reference, write_reference
from ddgan.evaluation.stored_tensors import Tensors, cache_root
from ddgan.registry import MODELS


class FeatureGroup:
    """Metrics, by name, of the features of one extractor.

    ``identity`` tells its features of some images from those of others, after ``build``.
    """

    def __init__(self, metrics: Mapping[str, FeatureMetric]):
        self.metrics = metrics
        self.reference: Reference | None = None

    @property
    def needs_real(self) -> dict[str, FeatureMetric]:
        """The metrics that compare with real images."""
        return {name: one for name, one in self.metrics.items() if one.needs != "nothing"}

    def build(self, device: torch.device) -> None:
        """Build the extractor on the device, in all processes."""
        config = next(iter(self.metrics.values())).extractor
        self.extractor = _main_process_first(lambda: MODELS.build(config)).to(device).eval()
        self.names = {"name": self.extractor.name, "digest": self.extractor.weights_digest}
        self.identity = {"extractor": self.names}

    def use_file(self, path: Path) -> None:
        """Compare with a .npz file; raises UserError where it does not fit the metrics."""
        self.reference = read_reference(path, self.extractor.feature_dim, self.names)
        for name, metric in self.needs_real.items():
            if metric.needs == "features" and self.reference.features is None:
                raise UserError(
                    f"--metric {name} compares single features, and --real {path} has mu and "
                    "sigma alone; leave --real out, or write one with --export-real"
                )

    def use_dataset(
        self,
        dataset: Dataset,
        num_workers: int,
        progress: Progress,
        all_statistics: bool = False,
    ) -> None:
        """Compare with a data set, in all processes.

        With ``all_statistics``, those of all images are computed even if no metric asks.
        """
        statistics, features = {len(dataset)} if all_statistics else set(), 0
        for metric in self.needs_real.values():
            size = _size(metric, len(dataset))
            if metric.needs == "statistics":
                statistics.add(size)
            else:
                features = max(features, size)
        self.reference = real_reference(
            dataset,
            self.extractor,
            self.identity,
            statistics,
            features,
            cache_root() / "real",
            num_workers,
            progress,
        )

    def export(self, path: Path) -> None:
        """Write what the metrics compare with as a .npz file."""
        write_reference(path, self.reference, self.names)

    def values(self, metric: FeatureMetric, tensors: Tensors, device: torch.device) -> dict:
        """Return a metric's values for the extractor's outputs, computed on ``device``."""
        fake = {name: value.to(device) for name, value in tensors.items()}
        if metric.needs == "nothing":
            return dict(metric(fake, None))
        if metric.needs == "features":
            real = self.reference.features[: metric.num_real]
            return dict(metric(fake, {"features": real.to(device)}))
        statistics = self.reference.statistics
        return dict(metric(fake, statistics.get(None) or statistics[self._used(metric)]))

    def sources(self, metric: FeatureMetric) -> dict[str, Any]:
        """Return what a record says of the extractor and of the real images."""
        if metric.needs == "nothing":
            return self.identity
        return {**self.identity, "real": {**self.reference.source, "used": self._used(metric)}}

    def _used(self, metric: FeatureMetric) -> int | None:
        if None in self.reference.statistics:
            features = self.reference.features
            whole = self.reference.num or None
            return whole if metric.needs == "statistics" else _size(metric, len(features))
        return _size(metric, self.reference.num)


def extractor_key(metric: FeatureMetric) -> str:
    """Return a text that is the same for metrics of one extractor."""
    return json.dumps(metric.extractor, sort_keys=True, default=str)


def _size(metric: FeatureMetric, available: int) -> int:
    return min(metric.num_real or available, available)


def _main_process_first(build: Callable[[], nn.Module]) -> nn.Module:
    """Build on the main process before the others do, so that one alone fetches weights."""
    if is_main_process():
        built = build()
        barrier()
        return built
    barrier()
    return build()

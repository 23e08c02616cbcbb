"""Metrics of a model itself: the time of a batch, and how often it evaluates its generator."""

import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ddgan.models import GenerativeModel
from ddgan.registry import METRICS


def count_evaluations(model: GenerativeModel, use_ema: bool = True) -> int:
    """How often a sample evaluates the generator (NFE), counted while one is drawn."""
    generator = model.generator_ema if use_ema else model.generator
    calls = 0

    def count(*_) -> None:
        nonlocal calls
        calls += 1

    handle = generator.register_forward_hook(count)
    try:
        model.sample(1, batch_size=1, use_ema=use_ema)
    finally:
        handle.remove()
    return calls


def sampling_times(
    model: GenerativeModel,
    batch_size: int,
    warmup: int,
    repeats: int,
    use_ema: bool = True,
) -> list[float]:
    """The seconds for each of ``repeats`` batches, from noise to uint8 images.

    ``warmup`` batches are drawn first. On a GPU, the clock is read when the device is idle.
    """
    times = []
    for index in range(warmup + repeats):
        _synchronise(model.device)
        start = time.perf_counter()
        model.sample(batch_size, seed=index, batch_size=batch_size, use_ema=use_ema)
        _synchronise(model.device)
        times.append(time.perf_counter() - start)
    return times[warmup:]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class ModelMetric(ABC):
    """A metric of a model itself, rather than of a set of its samples."""

    version = "1"

    @abstractmethod
    def __call__(self, model: GenerativeModel, use_ema: bool) -> dict[str, Any]:
        """The values for the averaged generator, or for the one as trained."""


@METRICS.register_module()
@dataclass
class SamplingTime(ModelMetric):
    """Seconds for a batch of samples: median and quartiles of ``repeats`` batches (Table 4).

    The papers' batch has 100 samples (DDGAN, Sec. 5.1).
    """

    higher_is_better: ClassVar = {"seconds": False, "images_per_second": True}

    batch_size: int = 100
    warmup: int = 3
    repeats: int = 10

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.warmup < 0 or self.repeats < 1:
            raise ValueError(f"{self}; expected batch_size >= 1, warmup >= 0 and repeats >= 1")

    def __call__(self, model: GenerativeModel, use_ema: bool = True) -> dict[str, Any]:
        """The median, the quartiles and the extremes, in seconds per batch."""
        times = sampling_times(model, self.batch_size, self.warmup, self.repeats, use_ema)
        low, q25, median, q75, high = np.quantile(times, [0, 0.25, 0.5, 0.75, 1]).tolist()
        return {
            "seconds": median,
            "seconds_q25": q25,
            "seconds_q75": q75,
            "seconds_min": low,
            "seconds_max": high,
            "images_per_second": self.batch_size / median,
            **asdict(self),
            "nfe": count_evaluations(model, use_ema),
        }


@METRICS.register_module()
class FunctionEvaluations(ModelMetric):
    """The number of evaluations of the generator that a sample takes, as counted."""

    higher_is_better: ClassVar = {"nfe": False}

    def __call__(self, model: GenerativeModel, use_ema: bool = True) -> dict[str, Any]:
        """The count, as "nfe"."""
        return {"nfe": count_evaluations(model, use_ema)}

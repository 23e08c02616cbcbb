"""How long a model takes to draw samples, and how often it evaluates its generator for that."""

import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch

from ddgan.models import GenerativeModel
from ddgan.registry import METRICS


def count_evaluations(model: GenerativeModel, use_ema: bool = True) -> int:
    """Return how often a sample evaluates the generator (NFE), counted while one is drawn."""
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
    """Return the seconds that each of ``repeats`` batches took, from noise to uint8 images.

    ``warmup`` batches are drawn before. On a GPU, the clock is read when the device is done.
    """
    times = []
    for index in range(warmup + repeats):
        _synchronise(model.device)
        start = time.perf_counter()
        model.sample(batch_size, seed=index, batch_size=batch_size, use_ema=use_ema)
        _synchronise(model.device)
        times.append(time.perf_counter() - start)
    return times[warmup:]


class ModelMetric(ABC):
    """A metric of a model itself, rather than of a set of its samples."""

    version = "1"

    @abstractmethod
    def __call__(self, model: GenerativeModel, use_ema: bool) -> dict[str, Any]:
        """Return the values for the averaged generator, or for the one as trained."""


@METRICS.register_module()
class SamplingTime(ModelMetric):
    """Seconds for a batch of samples: median and quartiles of ``repeats`` batches (Table 4).

    The papers' batch has 100 samples (DDGAN, Sec. 5.1).
    """

    def __init__(self, batch_size: int = 100, warmup: int = 3, repeats: int = 10):
        if batch_size < 1 or warmup < 0 or repeats < 1:
            raise ValueError(
                f"SamplingTime: batch_size is {batch_size}, warmup {warmup} and repeats {repeats}; "
                "expected at least 1, 0 and 1"
            )
        self.batch_size = batch_size
        self.warmup = warmup
        self.repeats = repeats

    def __call__(self, model: GenerativeModel, use_ema: bool = True) -> dict[str, Any]:
        """Return the median, the quartiles and the extremes, in seconds per batch."""
        times = sampling_times(model, self.batch_size, self.warmup, self.repeats, use_ema)
        low, q25, median, q75, high = np.quantile(times, [0, 0.25, 0.5, 0.75, 1]).tolist()
        return {
            "seconds": median,
            "seconds_q25": q25,
            "seconds_q75": q75,
            "seconds_min": low,
            "seconds_max": high,
            "images_per_second": self.batch_size / median,
            "batch_size": self.batch_size,
            "warmup": self.warmup,
            "repeats": self.repeats,
            "nfe": count_evaluations(model, use_ema),
        }


@METRICS.register_module()
class FunctionEvaluations(ModelMetric):
    """The number of evaluations of the generator that a sample takes, as counted."""

    def __call__(self, model: GenerativeModel, use_ema: bool = True) -> dict[str, Any]:
        """Return the count as "nfe"."""
        return {"nfe": count_evaluations(model, use_ema)}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""The time that a model takes to draw samples, and how often it evaluates its generator."""

import time

import torch

from ddgan.models import GenerativeModel


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

"""What every generative model shares: an averaged generator, its update and sampling."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ddgan.diffusion import SampleNoise
from ddgan.errors import ConfigError
from ddgan.models.graphs import LastRecording
from ddgan.registry import MODELS

DEFAULT_BATCH_SIZE = 100


class GenerativeModel(nn.Module, ABC):
    """A generator, its exponential moving average ``generator_ema``, and sampling from either."""

    # How many images of each sample of a batch a train step generates.
    images_per_sample = 1
    # Beside weights and noise, what samples depend on: a recording holds as long as it is the same.
    sampling_options: Hashable = ()

    def __init__(
        self,
        generator: dict | nn.Module,
        ema_decay: float = 0.9999,
        ema_warmup: bool = False,
        ema_half_life: float | None = None,
        ema_ramp_up: float | None = None,
        data_preprocessor: dict | nn.Module | None = None,
    ):
        """Build the generator and copy it.

        The average follows the generator with ``ema_decay`` per iteration. With ``ema_warmup``
        the decay starts low and grows as (1 + i) / (10 + i), which short runs need.
        ``ema_half_life`` takes the place of both: the number of training images in which the
        weight of a past generator halves, whatever the batch size. With ``ema_ramp_up`` it is at
        most that share of the images seen so far (Karras et al., 2020, StyleGAN2-ADA).
        """
        super().__init__()
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay is {ema_decay}; expected a value in [0, 1)")
        if any(value is not None and value <= 0 for value in (ema_half_life, ema_ramp_up)):
            raise ValueError(
                f"ema_half_life is {ema_half_life} and ema_ramp_up {ema_ramp_up}; expected values "
                "above 0, or None"
            )
        self.generator = build(generator)
        self.generator_ema = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.data_preprocessor = build(data_preprocessor or {"type": "ImagePreprocessor"})
        self.ema_decay = ema_decay
        self.ema_warmup = ema_warmup
        self.ema_half_life = ema_half_life
        self.ema_ramp_up = ema_ramp_up
        self.iteration = 0
        self.ema_updates = 0
        self.images_seen = 0
        self._images_averaged = 0
        self._replicas: dict[str, nn.Module] = {}
        self._recording = LastRecording()

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of one sample: (C, H, W) of images, (D,) of points."""
        return self.generator.data_shape

    @property
    def device(self) -> torch.device:
        """The device that the generator is on."""
        return next(self.generator_ema.parameters()).device

    @property
    @abstractmethod
    def num_evaluations(self) -> int:
        """How often a sample evaluates the generator, the NFE of the papers' tables."""

    @abstractmethod
    def train_step(self, data: Mapping[str, Tensor], optim_wrapper: Any) -> dict[str, Tensor]:
        """Update the model with one batch and return what is to be logged, on the device."""

    @abstractmethod
    def draw(
        self,
        noise: SampleNoise,
        generator: nn.Module,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Return one float sample for each index of ``noise``, drawn with ``generator``."""

    @abstractmethod
    def example_inputs(self, network: str) -> tuple[Tensor | None, ...]:
        """Return one sample's inputs of the child ``network``, to measure what it computes."""

    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: int = 0,
        batch_size: int | None = None,
        first_index: int = 0,
        use_ema: bool = True,
        progress: Callable[[int], None] | None = None,
        cuda_graph: bool = False,
    ) -> Tensor:
        """Return samples ``first_index``, …, ``first_index + n - 1`` of a seed, on the device.

        Images are (n, C, H, W) uint8; points (n, D) float. A sample depends on ``seed`` and its
        index alone: ``batch_size``, or a division among processes, changes it by rounding at most.
        ``progress(k)`` is called after each batch of k samples. ``cuda_graph`` records the drawing
        of a whole batch on a GPU and replays it for the next ones, in later calls as well, as long
        as seed, batch size and precision stay the same; the memory of one batch remains taken.
        """
        if cuda_graph and self.device.type != "cuda":
            raise ValueError(f"cuda_graph needs a model on a GPU; this one is on {self.device}")
        if n < 0 or (batch_size is not None and batch_size < 1):
            raise ValueError(f"n is {n}, batch_size {batch_size}; expected n >= 0, batch_size >= 1")
        generator = self.generator_ema if use_ema else self.generator

        def finished(indices: Tensor) -> Tensor:
            return self.to_output(self.draw(SampleNoise(seed, indices), generator))

        draw = finished
        if cuda_graph:
            weights, precision = next(generator.parameters()), _precision(self.device.type)
            key = (seed, self.sampling_options, weights.data_ptr(), precision)
            draw = partial(self._recording, key, finished)
        batches = []
        with evaluating(generator):
            for start in range(0, n, batch_size or DEFAULT_BATCH_SIZE):
                stop = min(start + (batch_size or DEFAULT_BATCH_SIZE), n)
                indices = torch.arange(first_index + start, first_index + stop, device=self.device)
                batches.append(draw(indices))
                if progress is not None:
                    progress(stop - start)
        return torch.cat(batches) if batches else self.empty_output()

    def to_output(self, x0: Tensor) -> Tensor:
        """Return x_0 as the data set has it: uint8 images, or points in its units."""
        return self.data_preprocessor.restore(x0)

    def empty_output(self) -> Tensor:
        """Return what sampling nothing gives: the shape and dtype of samples, with length 0."""
        return self.to_output(torch.empty((0, *self.data_shape), device=self.device))

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Train through replicas: ``wrap(child)`` of each child that has trainable parameters.

        The replicas are kept outside the module tree, so that names in checkpoints do not depend
        on how the model is trained.
        """
        for name, child in self.named_children():
            if any(parameter.requires_grad for parameter in child.parameters()):
                self._replicas[name] = wrap(child)

    def replica(self, name: str) -> nn.Module:
        """Return the module to call in training: the child ``name``, or its replica if any."""
        return self._replicas.get(name) or getattr(self, name)

    def compile_networks(self) -> None:
        """Compile the networks in place; names of parameters stay as they are."""
        self.generator.compile()
        self.generator_ema.compile()

    @torch.no_grad()
    def update_ema(self) -> None:
        """Move the average towards the generator; the first update copies it."""
        decay = self._next_ema_decay() if self.ema_updates else 0.0
        averages = [*self.generator_ema.parameters()]
        current = [p.detach() for p in self.generator.parameters()]
        torch._foreach_lerp_(averages, current, 1 - decay)
        for average, buffer in zip(
            self.generator_ema.buffers(), self.generator.buffers(), strict=True
        ):
            average.copy_(buffer)
        self.ema_updates += 1
        self._images_averaged = self.images_seen

    def _next_ema_decay(self) -> float:
        n = self.ema_updates
        if self.ema_half_life is None:
            return min(self.ema_decay, (1 + n) / (10 + n)) if self.ema_warmup else self.ema_decay
        half_life = self.ema_half_life
        if self.ema_ramp_up is not None:
            half_life = min(half_life, self.ema_ramp_up * self._images_averaged)
        return 0.5 ** ((self.images_seen - self._images_averaged) / half_life)

    def get_extra_state(self) -> dict[str, int]:
        """Return the counters that are part of a checkpoint beside the tensors."""
        names = ("iteration", "ema_updates", "images_seen")
        return {name: getattr(self, name) for name in names}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore the counters."""
        self.iteration = int(state["iteration"])
        self.ema_updates = int(state["ema_updates"])
        # A checkpoint between updates of the average, amid accumulated gradients, begins anew.
        self.images_seen = self._images_averaged = int(state.get("images_seen", 0))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Have a network in evaluation mode, and afterwards as it was."""
    was_training = network.training
    if was_training:  # setting the mode of all its modules takes time
        network.eval()
    try:
        yield
    finally:
        if was_training:
            network.train()


def _precision(device_type: str) -> torch.dtype | None:
    """The dtype of autocast around the caller, None without."""
    enabled = torch.is_autocast_enabled(device_type)
    return torch.get_autocast_dtype(device_type) if enabled else None


def check_shapes(dataset: Dataset, model: nn.Module) -> None:
    """Raise ConfigError if the data set and the model disagree on the shape of a sample."""
    data, expected = getattr(dataset, "image_shape", None), getattr(model, "data_shape", None)
    if data is not None and expected is not None and tuple(data) != tuple(expected):
        raise ConfigError(
            f"the data set has samples of shape {tuple(data)}, the generator makes "
            f"{tuple(expected)}; change model.generator or the data set's pipeline"
        )


def build(module: dict | nn.Module) -> nn.Module:
    """Return the registered module that a config describes; a module is returned as it is."""
    return MODELS.build(module) if isinstance(module, dict) else module


def with_num_steps(network: dict | nn.Module, num_steps: int) -> dict | nn.Module:
    """A network's config with the diffusion's T as ``num_steps``, if it takes and lacks that."""
    if not isinstance(network, dict) or "num_steps" in network:
        return network
    component = MODELS.get(network["type"]) if isinstance(network.get("type"), str) else None
    if component is None or "num_steps" not in inspect.signature(component).parameters:
        return network
    return {**network, "num_steps": num_steps}

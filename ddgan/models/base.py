"""What all generative models share: bookkeeping of a train step, the average, and sampling."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn
from torch.utils.data import Dataset

from ddgan.diffusion import SampleNoise
from ddgan.errors import ConfigError
from ddgan.models.ema import ExponentialMovingAverage
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS
from ddgan.utils.device import memory_errors_named

DEFAULT_BATCH_SIZE = 100

Logs = dict[str, Tensor]
# Draws one float x_0 for each index of the noise, with the given generator.
Draw = Callable[[SampleNoise, nn.Module], Tensor]


class GenerativeModel(nn.Module, ABC):
    """A generator, its exponential moving average ``generator_ema``, and sampling from either."""

    # How many images of each sample of a batch a train step generates.
    images_per_sample = 1

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

        The arguments of the average are described in ``ExponentialMovingAverage``.
        """
        super().__init__()
        self.ema = ExponentialMovingAverage(ema_decay, ema_warmup, ema_half_life, ema_ramp_up)
        self.generator = build(generator)
        self.generator_ema = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.data_preprocessor = build(data_preprocessor or {"type": "ImagePreprocessor"})
        self.iteration = 0
        self.images_seen = 0
        # The DDP modules of the children that are trained, by name; the engine fills it. Outside
        # the module tree, so that names in checkpoints do not depend on how a model was trained.
        self.ddp_modules: dict[str, nn.Module] = {}
        # The children whose optimizers stepped in this iteration.
        self._stepped: set[str] = set()

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
        """Evaluations of the generator per sample, the NFE of the papers' tables."""

    @abstractmethod
    def update_networks(self, x0: Tensor, rng: StepRandom, optim: OptimWrapperDict) -> Logs:
        """Update the networks with one batch, by calls of ``update``; what is to be logged.

        This is the place for another schedule of updates or a further network: all else of an
        iteration is ``train_step``'s.
        """

    @abstractmethod
    def draw(
        self,
        noise: SampleNoise,
        generator: nn.Module,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Float samples (B, …), one for each index of ``noise``, drawn with ``generator``."""

    @abstractmethod
    def example_inputs(self, network: str) -> tuple[Tensor | None, ...]:
        """One sample's inputs of the child ``network``, to measure what it computes."""

    def train_step(self, data: Mapping[str, Tensor], optim_wrapper: OptimWrapperDict) -> Logs:
        """Make one iteration with one batch: update the networks, count, and average.

        The logs stay on the device.
        """
        rng = StepRandom(len(data["x"]), self.device)
        x0 = self.data_preprocessor(data, rng)
        self._stepped.clear()
        logs = self.update_networks(x0, rng, optim_wrapper)
        self.images_seen += len(x0) * rng.world_size
        if "generator" in self._stepped:
            self.update_ema()
        self.iteration += 1
        return logs

    def update(
        self,
        name: str,
        loss: Callable[[Tensor, StepRandom], tuple[Tensor, Logs]],
        x0: Tensor,
        rng: StepRandom,
        optim: OptimWrapperDict,
    ) -> Logs:
        """Update the child ``name`` by the gradient of ``loss(x0, rng)``; return its logs.

        With accumulated gradients the optimizer steps once in several calls.
        """
        wrapper = optim[name]
        with wrapper.optim_context(self.ddp(name)):
            value, logs = loss(x0, rng)
            wrapper.update_params(value)
        if wrapper.should_update():
            self._stepped.add(name)
        return logs

    def ddp(self, name: str) -> nn.Module:
        """The module to call where gradients are synchronised: the child ``name``, or its DDP."""
        return self.ddp_modules.get(name, getattr(self, name))

    def update_ema(self) -> None:
        """Move ``generator_ema`` towards the generator."""
        self.ema.update(self.generator_ema, self.generator, self.images_seen)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: int = 0,
        batch_size: int | None = None,
        first_index: int = 0,
        use_ema: bool = True,
        progress: Callable[[int], None] | None = None,
        draw: Draw | None = None,
    ) -> Tensor:
        """Samples ``first_index``, …, ``first_index + n - 1`` of a seed, on the device.

        Images are (n, C, H, W) uint8; points (n, D) float. A sample depends on ``seed`` and its
        index alone: ``batch_size``, or a division among processes, changes it by rounding at most.
        ``progress(k)`` is called after each batch of k samples. ``draw(noise, generator)`` replaces
        the model's own, for instance by one that is recorded on a GPU (``RecordedDraw``).
        """
        if n < 0 or (batch_size is not None and batch_size < 1):
            raise ValueError(f"n is {n}, batch_size {batch_size}; expected n >= 0, batch_size >= 1")
        draw, size = draw or self.draw, batch_size or DEFAULT_BATCH_SIZE
        generator = self.generator_ema if use_ema else self.generator
        batches = []
        with evaluating(generator):
            for start in range(first_index, first_index + n, size):
                stop = min(start + size, first_index + n)
                indices = torch.arange(start, stop, device=self.device)
                with memory_errors_named(len(indices), "batch size"):
                    batches.append(self.to_output(draw(SampleNoise(seed, indices), generator)))
                if progress is not None:
                    progress(stop - start)
        return torch.cat(batches) if batches else self.empty_output()

    def to_output(self, x0: Tensor) -> Tensor:
        """x_0 as the data set has it: uint8 images, or points in its units."""
        return self.data_preprocessor.restore(x0)

    def empty_output(self) -> Tensor:
        """An empty batch with the shape and dtype of samples."""
        return self.to_output(torch.empty((0, *self.data_shape), device=self.device))

    def get_extra_state(self) -> dict[str, int]:
        """The counters that a checkpoint holds besides the tensors."""
        return {
            "iteration": self.iteration,
            "ema_updates": self.ema.updates,
            "images_seen": self.images_seen,
        }

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore the counters."""
        self.iteration = int(state["iteration"])
        self.ema.updates = int(state["ema_updates"])
        # A window of accumulated gradients starts over, and with it the images to average next.
        self.images_seen = self.ema.images_averaged = int(state.get("images_seen", 0))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Keep a network in evaluation mode, and restore its mode afterwards."""
    was_training = network.training
    if was_training:  # setting the mode of all its modules takes time
        network.eval()
    try:
        yield
    finally:
        if was_training:
            network.train()


def check_shapes(dataset: Dataset, model: nn.Module) -> None:
    """Raise ConfigError if the data set and the model disagree on the shape of a sample."""
    data, expected = getattr(dataset, "image_shape", None), getattr(model, "data_shape", None)
    if data is not None and expected is not None and tuple(data) != tuple(expected):
        raise ConfigError(
            f"the data set has samples of shape {tuple(data)}, the generator makes "
            f"{tuple(expected)}; change model.generator or the data set's pipeline"
        )


def build(module: dict | nn.Module) -> Any:
    """The registered module that a config describes; a module stays as it is.

    ``Any``, since the interface of a network is its method's, not that of ``nn.Module``.
    """
    built = MODELS.build(module) if isinstance(module, dict) else module
    if not isinstance(built, nn.Module):
        raise ConfigError(f"a part of the model is {module!r}; expected a dict with its type")
    return built


def with_num_steps(network: dict | nn.Module, num_steps: int) -> dict | nn.Module:
    """A network's config with the diffusion's T as ``num_steps``, if it takes and lacks that."""
    if not isinstance(network, dict) or "num_steps" in network:
        return network
    component = MODELS.get(network["type"]) if isinstance(network.get("type"), str) else None
    if component is None or "num_steps" not in inspect.signature(component).parameters:
        return network
    return {**network, "num_steps": num_steps}

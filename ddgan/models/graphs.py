"""CUDA graphs: drawing a batch, recorded once and replayed without the cost of its launches."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from ddgan.diffusion import SampleNoise
from ddgan.models.base import GenerativeModel

WARM_UP_CALLS = 3


class CudaGraph:
    """A recording of ``function``, for inputs like ``example`` on a GPU.

    The function must compute the same way each time, without reading results on the host. Weights
    may change in place between calls, not move.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], example: Tensor):
        self.input = example.clone()
        # Casts that autocast keeps from the warm-up would be freed beneath the graph.
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            # Streams are those of the current device, which need not be the input's.
            with torch.cuda.device(example.device):
                self._record(function)
        finally:
            torch.set_autocast_cache_enabled(cached)

    def _record(self, function: Callable[[Tensor], Tensor]) -> None:
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_CALLS):  # libraries choose algorithms and allocate
                function(self.input)
        current.wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads, such as those that pin a loader's batches, may go on meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = function(self.input)

    def __call__(self, x: Tensor) -> Tensor:
        """The function's value of ``x``."""
        with torch.cuda.device(self.input.device):
            self.input.copy_(x)
            self.graph.replay()
            return self.output.clone()


class RecordedDraw:
    """``model.draw``, recorded for the first batch and replayed for the next.

    Pass it to ``model.sample(n, draw=RecordedDraw(model))``. It records again when anything
    changes that a recording holds: the seed, the batch size, the precision, where weights lie, or
    any setting of the model and its parts. The memory of one batch stays taken while it lives.
    """

    def __init__(
        self,
        model: GenerativeModel,
        record: Callable[[Callable[[Tensor], Tensor], Tensor], Callable] = CudaGraph,
    ):
        """Take the model; ``record`` makes the recording. Raises ValueError without a GPU."""
        if record is CudaGraph and model.device.type != "cuda":
            raise ValueError(f"CUDA graphs need a model on a GPU; this one is on {model.device}")
        self.model = model
        self._record = record
        self._key: Hashable = None
        self._recording: Callable[[Tensor], Tensor] | None = None

    def __call__(self, noise: SampleNoise, generator: nn.Module) -> Tensor:
        """Float samples for the indices of ``noise``, drawn with ``generator``."""
        device = noise.indices.device.type
        enabled = torch.is_autocast_enabled(device)
        precision = torch.get_autocast_dtype(device) if enabled else None
        key = (noise.seed, noise.indices.shape, precision, id(generator), settings(self.model))
        if key != self._key:
            # Free the old graph first, and forget it if recording fails.
            self._recording = self._key = None
            self._recording = self._record(
                lambda indices: self.model.draw(SampleNoise(noise.seed, indices), generator),
                noise.indices,
            )
            self._key = key
        return self._recording(noise.indices)  # type: ignore[misc]


def settings(model: nn.Module) -> tuple:
    """All that a recording of a model holds: its parts' attributes, and where its tensors lie."""
    tensors = [*model.parameters(), *model.buffers()]
    parts = [
        [(key, _frozen(value)) for key, value in vars(part).items() if key[0] != "_"]
        for part in model.modules()
    ]
    return repr(parts), tuple(tensor.data_ptr() for tensor in tensors)


def _frozen(value: Any) -> Any:
    """Plain values as they are, other objects by their attributes."""
    if isinstance(value, Tensor):
        return value.data_ptr()
    attributes = getattr(value, "__dict__", None)
    if not attributes or callable(value):
        return value
    return type(value), {key: _frozen(item) for key, item in attributes.items()}

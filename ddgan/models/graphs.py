"""CUDA graphs: a function of one tensor, recorded once and replayed without its launches' cost."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

WARM_UP_CALLS = 3


class RecordedCall:
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
        """Return what the function makes of ``x``."""
        with torch.cuda.device(self.input.device):
            self.input.copy_(x)
            self.graph.replay()
            return self.output.clone()


class LastRecording:
    """Keeps the latest recording, and replays it as long as the same is asked for."""

    def __init__(self, record: Callable[..., Callable[[Tensor], Tensor]] = RecordedCall):
        self._record = record
        self._key: Hashable = None
        self._call: Callable[[Tensor], Tensor] | None = None

    def __call__(self, key: Hashable, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return ``function(x)``; ``key`` names all, beside ``x``, that the function depends on."""
        key = (key, x.shape, x.dtype, x.device)
        if key != self._key:
            # Frees the memory of the old one first, and does not take it for whole if this fails.
            self._call = self._key = None
            self._call, self._key = self._record(function, x), key
        return self._call(x)

    def __reduce__(self) -> tuple:
        # A copy of the model records anew: a recording reads the weights where they are.
        return LastRecording, (self._record,)

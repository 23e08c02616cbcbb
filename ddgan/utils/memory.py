"""How much memory a model takes, and how many samples fit at once."""

import os
import resource
from itertools import chain

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode


def peak_memory(device: torch.device) -> int:
    """Return the bytes allocated at most so far: on the GPU, or by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class _OutputBytes(TorchDispatchMode):
    """Adds up the bytes of every new tensor that operations return."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        tensors = output if isinstance(output, (tuple, list)) else (output,)
        if not any(value.alias_info for value in returns):
            self.total += sum(
                t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor)
            )
        return output


def activation_bytes(network: nn.Module, *inputs: Tensor | None) -> int:
    """Return the bytes of all that a network computes from ``inputs``, computing nothing.

    An upper bound for inference, where most is freed on the way, and near to what a train step
    keeps for its backward pass. Inputs need only have the right shapes.
    """
    fake = FakeTensorMode()
    named = chain(network.named_parameters(), network.named_buffers())
    state = {name: fake.from_tensor(tensor) for name, tensor in named}
    stand_ins = tuple(None if x is None else fake.from_tensor(x) for x in inputs)
    with torch.no_grad(), fake, _OutputBytes() as counter:
        functional_call(network, state, stand_ins)
    return counter.total


def fitting_batch_size(bytes_per_sample: int, device: torch.device, most: int = 1000) -> int:
    """Return how many samples fit into 60 % of the memory at hand, between 1 and ``most``."""
    return max(1, min(most, int(0.6 * available_memory(device)) // max(bytes_per_sample, 1)))

"""Where a process computes: the CPU's set-up, the memory of a device, and what fits into it."""

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

# Private to torch (2.6 to 2.13), which has no other way to run a network on shapes alone and see
# each result; tests/utils/test_device.py fails when they move.
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from ddgan.errors import UserError

# Parameters of mallopt in glibc's malloc.h; their values are C ints.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 2**31 - 1


def set_up_cpu() -> None:
    """Make this process compute fast on a CPU; call it when a program starts.

    Denormals are flushed to zero: CPUs are about ten times slower on them, and the gradients of a
    saturated discriminator are of that size. Freed memory stays with the process (on Linux with
    glibc): by default every tensor of some megabytes goes back to the system, which clears its
    pages again for the next one, for up to a sixth of the time of a sample.
    """
    torch.set_flush_denormal(True)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _MOST)
        mallopt(_MMAP_THRESHOLD, _MOST)


def peak_memory(device: torch.device) -> int:
    """The most bytes allocated so far: on a GPU, or by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def available_memory(device: torch.device) -> int:
    """The bytes that can still be allocated on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    page = os.sysconf("SC_PAGE_SIZE")
    free = [os.sysconf("SC_AVPHYS_PAGES") * page, *_cgroup_memory()]
    used = int(_read("/proc/self/statm").partition(" ")[0] or 0) * page
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(limit - used)
    return max(0, min(free))


def _cgroup_memory(root: str = "/sys/fs/cgroup") -> Iterator[int]:
    """The bytes that the process's control groups still allow, of version 2 and of version 1."""
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        limit, used = (
            ("memory.max", "memory.current")
            if not controllers
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        top = Path(root, controllers)
        # In a container, the path is the host's and its own group is the top.
        folder = top / path.lstrip("/")
        for group in [folder, *folder.parents]:
            most, taken = _read(group / limit).strip(), _read(group / used).strip()
            if most.isdigit() and taken.isdigit():
                yield int(most) - int(taken)
            if group == top:
                break


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@contextmanager
def memory_errors_named(batch_size: int, option: str) -> Iterator[None]:
    """Turn running out of memory into a UserError that names the batch size and its option."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        texts = ("can't allocate memory", "out of memory", "not enough memory")
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and not any(
            text in str(error) for text in texts
        ):
            raise
        raise UserError(
            f"a batch of {batch_size} does not fit into memory; choose a lower {option}, or raise "
            f"the limit of memory ({(str(error).splitlines() or ['MemoryError'])[0][:200]})"
        ) from None


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
    """The bytes of everything that a network computes from ``inputs``; nothing is computed.

    An upper bound for inference, which frees most of it at once, and close to what a train step
    keeps for its backward pass. Inputs need only have the right shapes.
    """
    fake = FakeTensorMode()
    named = chain(network.named_parameters(), network.named_buffers())
    state: dict[str, Tensor] = {name: fake.from_tensor(tensor) for name, tensor in named}
    stand_ins = tuple(None if x is None else fake.from_tensor(x) for x in inputs)
    with torch.no_grad(), fake, _OutputBytes() as counter:
        functional_call(network, state, stand_ins)
    return counter.total


def fitting_batch_size(bytes_per_sample: int, device: torch.device, most: int = 1000) -> int:
    """How many samples fit into 60 % of the available memory, between 1 and ``most``."""
    return max(1, min(most, int(0.6 * available_memory(device)) // max(bytes_per_sample, 1)))

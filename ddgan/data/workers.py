"""Data workers whose death cannot deadlock the trainer, and the shared memory that they need."""

import ctypes
import multiprocessing
from multiprocessing.context import BaseContext

import torch

from ddgan.errors import UserError

# Batches that each worker of torch's loader prepares ahead.
_PREFETCHED = 2
_LEAST = 1 << 20


class Flag:
    """An event that one process sets and others look at, without a lock.

    multiprocessing's own event is locked while a process looks at it. A process that is killed at
    that moment never unlocks it, and PyTorch's loader, which looks at the event once it has found
    the process dead, would wait for ever.
    """

    def __init__(self, context: BaseContext):
        self._value = context.RawValue(ctypes.c_bool, False)

    def is_set(self) -> bool:
        """Whether ``set`` was called."""
        return self._value.value

    def set(self) -> None:
        """Make ``is_set`` true in every process."""
        self._value.value = True


def reader_context(
    num_workers: int, method: str | None = None, batch_bytes: int = 0
) -> BaseContext | None:
    """The ``multiprocessing_context`` of a DataLoader, whose events are ``Flag``.

    ``method`` is fork, spawn, forkserver or None for the default; ``batch_bytes`` is the size of a
    batch. None for no workers, as the loader asks for. Raises ValueError for another method, and
    UserError where shared memory has no room for the batches that workers prepare ahead.
    """
    if num_workers == 0:
        return None
    context = multiprocessing.get_context(method or multiprocessing.get_start_method())
    check_shared_memory(max(_LEAST, num_workers * _PREFETCHED * batch_bytes))

    class ReaderContext(type(context)):
        def Event(self) -> Flag:  # noqa: N802, multiprocessing's name
            return Flag(self)

    return ReaderContext()


def check_shared_memory(size: int) -> None:
    """Raise UserError unless ``size`` bytes can be shared with worker processes."""
    try:
        torch.empty(size, dtype=torch.uint8).share_memory_()
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"/dev/shm (shared memory) has no room for {size / 2**20:.0f} MiB of batches from "
            f"worker processes ({str(error).splitlines()[0]}). A container needs more of it: "
            "'docker run --shm-size=8g' or '--ipc=host', in Kubernetes an emptyDir with 'medium: "
            "Memory' mounted there; or set num_workers=0"
        ) from error

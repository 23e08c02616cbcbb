"""The processes that read data, made so that one that is killed cannot stop the one that waits."""

import ctypes
import multiprocessing
from multiprocessing.context import BaseContext


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


def reader_context(num_workers: int, method: str | None = None) -> BaseContext | None:
    """Return the ``multiprocessing_context`` of a DataLoader, whose events are ``Flag``.

    ``method`` is fork, spawn, forkserver or None for the default. None is returned for no workers,
    as the loader asks for. Raises ValueError for another method.
    """
    if num_workers == 0:
        return None
    context = multiprocessing.get_context(method or multiprocessing.get_start_method())

    class ReaderContext(type(context)):
        def Event(self) -> Flag:  # noqa: N802, multiprocessing's name
            return Flag(self)

    return ReaderContext()

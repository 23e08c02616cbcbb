"""Stopping together: on a signal, by which clusters announce that a run has to make room, or since
one process cannot read its data."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from ddgan.utils.distributed import control_group

# sysexits.h: a temporary failure, the same command is to be tried again later.
PREEMPTED_STATUS = 75
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


# Why to stop; of several reasons, the largest counts.
GO_ON, ASKED, NO_DATA = range(3)


class StopRequest:
    """Why the run has to stop, if it has to, known to all processes alike.

    The answers are combined while an iteration is computed, on the CPU and alongside the training's
    own messages: the device is never waited for, and all processes stop after the same iteration.
    """

    def __init__(self, timeout: int) -> None:
        """Join the other processes, if any; their silence for ``timeout`` seconds is an error."""
        self._group = control_group(timeout)
        self._asked = False
        self._answer = torch.tensor(GO_ON)
        self._work: dist.Work | None = None

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Take SIGTERM, SIGUSR1 and SIGHUP as requests; only the main thread of a process can.

        One that is ignored, as ``nohup`` has SIGHUP, stays so.
        """
        previous = {}
        try:
            for number in _SIGNALS:
                if signal.getsignal(number) is signal.SIG_IGN:
                    continue
                previous[number] = signal.signal(number, self._ask)
        except ValueError:  # In another thread, whoever started it has to deal with signals.
            previous = {}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def tell(self, reason: int) -> None:
        """Tell the others, before an iteration, the reason of this process to stop after it."""
        self._answer = torch.tensor(max(reason, ASKED if self._asked else GO_ON))
        if self._group is not None:
            self._work = dist.all_reduce(self._answer, dist.ReduceOp.MAX, self._group, True)

    def agreed(self) -> int:
        """Why to stop after this iteration: GO_ON, ASKED or NO_DATA."""
        if self._work is None:
            return max(int(self._answer), ASKED if self._asked else GO_ON)
        self._work.wait()
        return int(self._answer)

    def wait_for_others(self) -> None:
        """Return once all processes call this: a launcher may end them when the first is gone."""
        if self._group is not None:
            dist.barrier(self._group)

    def _ask(self, number: int, frame) -> None:
        self._asked = True

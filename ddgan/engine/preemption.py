"""Stopping on request: clusters announce by a signal that a run has to make room."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from ddgan.utils.distributed import control_group

# sysexits.h: a temporary failure, the same command is to be tried again later.
PREEMPTED_STATUS = 75
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class StopRequest:
    """Whether a process of the run was asked to stop, known to all processes alike.

    The answers are combined while the next iteration is computed, on the CPU and beside the
    training's own messages: the device is never waited for, and all processes stop after the same
    iteration, the one after that in which the first of them asked.
    """

    def __init__(self, timeout: int) -> None:
        """Join the other processes, if any; their silence for ``timeout`` seconds is an error."""
        self._group = control_group(timeout)
        self._asked = False
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

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

    def agreed(self) -> bool:
        """Return whether to stop now; each process has to ask after every iteration."""
        if self._group is None:
            return self._asked
        asked = False
        if self._pending is not None:
            work, answer = self._pending
            work.wait()
            asked = bool(answer)
        answer = torch.tensor(int(self._asked))
        self._pending = dist.all_reduce(answer, dist.ReduceOp.MAX, self._group, True), answer
        return asked

    def wait_for_others(self) -> None:
        """Return once all processes call this: a launcher may end them when the first is gone."""
        if self._group is not None:
            dist.barrier(self._group)

    def _ask(self, number: int, frame) -> None:
        self._asked = True

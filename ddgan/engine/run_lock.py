"""One run at a time in a folder."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log

from ddgan.errors import ConfigError

LOCK = "run.lock"


@contextmanager
def run_lock(work_dir: str | Path) -> Iterator[None]:
    """Hold the folder for this process; raises ConfigError if another process holds it.

    What counts is a POSIX record lock on the file ``run.lock``, not that the file exists: the
    kernel, or the server of a network file system, frees it when the process ends in whatever way,
    so that nothing stale can block a run. Unlike ``flock``, it is not inherited by the workers of
    a loader, which may outlive a killed run by seconds, and NFS passes it on between machines.
    """
    path = Path(work_dir) / LOCK
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise ConfigError(
                    f"{work_dir} is in use by another run ({file.read().strip()}); wait until it "
                    "ends or stop it, or choose another --work-dir"
                ) from None
            # Some network file systems are mounted without locks.
            print_log(
                f"{path} cannot be locked ({error}): a second run would go unnoticed", level=30
            )
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {socket.gethostname()}, "
            f"since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        )
        file.flush()
        yield

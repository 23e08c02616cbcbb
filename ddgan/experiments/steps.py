"""A step of an experiment: one command, and the files that show that it is done."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ddgan.errors import UserError
from ddgan.evaluation.records import read_record

POLL_SECONDS = 0.2
LOGS = "logs"


@dataclass(frozen=True)
class Step:
    """A command and its ``outputs``, with which it is done unless ``inputs`` are newer.

    Records among the outputs count only if they are of ``num`` samples, where that is given.
    ``iterations`` is the length of a training, 0 for other commands. ``own_folder`` is removed
    before the command runs, since its tool refuses a folder that holds files.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...] = ()
    num: int | None = None
    iterations: int = 0
    own_folder: Path | None = None

    @property
    def log(self) -> Path:
        """The file that the command's output is appended to."""
        return self.folder / LOGS / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.name)}.log"

    def is_done(self) -> bool:
        """Whether the outputs exist, as asked for and newer than the inputs."""
        files = (*self.outputs, *self.inputs)
        if not all(path.exists() for path in files):
            return False
        newest = max((path.stat().st_mtime for path in self.inputs), default=0)
        return all(
            path.stat().st_mtime >= newest and (self.num is None or has_samples(path, self.num))
            for path in self.outputs
        )


def has_samples(record: Path, num: int | None) -> bool:
    """Whether a file is a record of ``num`` samples, or of a metric that takes no number."""
    content = read_record(record)
    return content is not None and (num is None or content["protocol"].get("num", num) == num)


def run_step(step: Step, advance: Callable[[int], None] = lambda iterations: None) -> None:
    """Run the command until it ends; an interruption ends it as well.

    ``advance(k)`` is called for every k iterations that a training has made. Raises UserError with
    the end of the log if the command fails or its outputs are missing.
    """
    step.log.parent.mkdir(parents=True, exist_ok=True)
    if step.own_folder is not None:
        shutil.rmtree(step.own_folder, ignore_errors=True)
    with open(step.log, "ab") as log:
        process = start(step, log)
        try:
            watch(process, step, advance)
        finally:
            stop(process)
    if process.returncode:
        raise UserError(_failure(step, process.returncode))
    if missing := [str(path) for path in step.outputs if not path.exists()]:
        raise UserError(
            f"{step.name}: the command succeeded without writing {', '.join(missing)}\n"
            f"  command: {' '.join(step.command)}\n  log: {step.log}"
        )


def start(step: Step, log) -> subprocess.Popen:
    """Start the command, its output going to the log."""
    log.write(f"\n$ {' '.join(step.command)}\n".encode())
    log.flush()
    # The shell scripts start Python too: the one that runs this.
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.Popen(
        step.command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
    )


def watch(process: subprocess.Popen, step: Step, advance: Callable[[int], None]) -> None:
    """Wait until the process has ended, and report a training's iterations meanwhile."""
    seen = 0
    while True:
        ended = process.poll() is not None
        if step.iterations and (now := last_iteration(step.folder)) > seen:
            advance(now - seen)
            seen = now
        if ended:
            return
        time.sleep(POLL_SECONDS)


def stop(process: subprocess.Popen) -> None:
    """End a process that still runs: with a minute to save a checkpoint, then at once."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_iteration(run: Path) -> int:
    """The last iteration that a training has logged, 0 before the first."""
    files = sorted(run.glob("*/vis_data/scalars.json"))
    # An interrupted part may have logged more than the part that resumed.
    for line in reversed(files[-1].read_bytes()[-4096:].splitlines()) if files else ():
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt, so that the running command is ended too."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _failure(step: Step, status: int) -> str:
    tail = step.log.read_text(errors="replace").rstrip().splitlines()[-5:]
    how = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
    return (
        f"{step.name} {how}; fix the cause and run the same command to continue\n"
        f"  command: {' '.join(step.command)}\n  log: {step.log}, which ends with\n"
        + "\n".join(f"    {line}" for line in tail)
    )

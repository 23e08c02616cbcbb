"""Stages of an experiment: commands that are run once, and again only for another command."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ddgan.errors import UserError

POLL_SECONDS = 0.2
STAMPS, LOGS = "stages", "logs"


@dataclass(frozen=True)
class Stage:
    """A command with what it makes.

    ``identity`` is what decides the result: two commands with the same one (on other devices, say)
    make the same. It includes, by ``inputs``, that of the stages before. The stage is done when a
    stamp in ``folder`` has its digest and all ``outputs`` exist. ``iterations`` is how many a
    training makes, 0 for other commands. ``own_folder`` is emptied of what an earlier attempt left.
    """

    name: str
    folder: Path
    command: tuple[str, ...]
    outputs: tuple[Path, ...]
    identity: str
    inputs: tuple["Stage", ...] = ()
    iterations: int = 0
    own_folder: Path | None = None

    @property
    def digest(self) -> str:
        """A SHA-256 string of the identity of this stage and of those that it builds on."""
        parts = [self.name, self.identity, *(stage.digest for stage in self.inputs)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def log(self) -> Path:
        """The file that takes the command's output, appended to at each attempt."""
        return self.folder / LOGS / f"{_slug(self.name)}.log"

    @property
    def stamp(self) -> Path:
        """The file that says which command was begun or finished."""
        return self.folder / STAMPS / f"{_slug(self.name)}.json"

    def read_stamp(self) -> dict:
        """Return the stamp's content, empty if there is none that can be read."""
        try:
            content = json.loads(self.stamp.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def is_done(self) -> bool:
        """Return whether the same command has been finished and its outputs are there."""
        stamp = self.read_stamp()
        same = stamp.get("digest") == self.digest and stamp.get("finished") is not None
        return same and all(path.exists() for path in self.outputs)

    def write_stamp(self, finished: str | None, seconds: float) -> None:
        """Note that the stage was begun (``finished`` is None) or when it was finished."""
        self.stamp.parent.mkdir(parents=True, exist_ok=True)
        content = {"digest": self.digest, "finished": finished, "seconds": round(seconds, 1)}
        temporary = self.stamp.with_name(f".{os.getpid()}.{self.stamp.name}")
        temporary.write_text(json.dumps(content) + "\n")
        os.replace(temporary, self.stamp)


def check_unmixed(stage: Stage) -> None:
    """Raise UserError where going on would resume a training with other settings."""
    stamp = stage.read_stamp()
    if stage.iterations and stamp and stamp.get("digest") != stage.digest:
        raise UserError(
            f"{stage.folder} holds a training with other settings than those asked for; remove it, "
            "or choose another --out"
        )


def run_stage(stage: Stage, advance: Callable[[int], None] = lambda iterations: None) -> float:
    """Run the command until it ends and return its seconds, those of earlier attempts included.

    ``advance(k)`` is called for every k iterations that a training has made. An interruption ends
    the command as well. Raises UserError if the command fails, with its log's last lines.
    """
    stage.log.parent.mkdir(parents=True, exist_ok=True)
    before = stage.read_stamp()
    if stage.own_folder is not None and before:
        shutil.rmtree(stage.own_folder, ignore_errors=True)
    spent = before.get("seconds", 0.0) if before.get("digest") == stage.digest else 0.0
    stage.write_stamp(None, spent)
    start = time.monotonic()
    try:
        with open(stage.log, "ab") as log, _ended(_start(stage, log)) as process:
            _watch(process, stage, advance)
    finally:
        spent += time.monotonic() - start
        stage.write_stamp(None, spent)
    if process.returncode:
        raise UserError(_failure(stage, process.returncode))
    if missing := [str(path) for path in stage.outputs if not path.exists()]:
        raise UserError(
            f"{stage.name}: the command succeeded without writing {', '.join(missing)}\n"
            f"  command: {' '.join(stage.command)}\n  log: {stage.log}"
        )
    stage.write_stamp(time.strftime("%Y-%m-%d %H:%M:%S"), spent)
    return spent


def last_iteration(run: Path) -> int:
    """Return the last iteration that a run has logged, 0 before the first."""
    files = sorted(run.glob("*/vis_data/scalars.json"))
    if not files:
        return 0
    # A part that was interrupted may have logged more than the one that went on.
    lines = files[-1].read_bytes()[-4096:].splitlines()
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt, so that the command that runs is ended too."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _start(stage: Stage, log) -> subprocess.Popen:
    log.write(f"\n$ {' '.join(stage.command)}\n".encode())
    log.flush()
    return subprocess.Popen(
        stage.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    )


@contextmanager
def _ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """See to it that the process has ended when the block is left."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _watch(process: subprocess.Popen, stage: Stage, advance: Callable[[int], None]) -> None:
    seen = 0
    while True:
        ended = process.poll() is not None
        if stage.iterations and (now := last_iteration(stage.folder)) > seen:
            advance(now - seen)
            seen = now
        if ended:
            return
        time.sleep(POLL_SECONDS)


def _failure(stage: Stage, status: int) -> str:
    tail = stage.log.read_text(errors="replace").rstrip().splitlines()[-5:]
    how = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
    return (
        f"{stage.name} {how}; the same command goes on from here once the cause is mended\n"
        f"  command: {' '.join(stage.command)}\n  log: {stage.log}, which ends with\n"
        + "\n".join(f"    {line}" for line in tail)
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)

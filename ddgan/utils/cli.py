"""What the command-line tools share: options, messages of errors, progress."""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.config import DictAction
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ddgan.errors import UserError
from ddgan.utils.device import set_up_cpu

# Errors of components for arguments and files that they cannot use: written for the user.
USER_ERRORS = (UserError, ValueError, TypeError, KeyError, OSError)


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least ``minimum``."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text) or int(text) < minimum:
            raise argparse.ArgumentTypeError(
                f"{text!r} given; expected a whole number of at least {minimum}"
            )
        return int(text)

    return number


def number_or_auto(text: str) -> int | None:
    """An argparse type: a whole number of at least 1, or None for ``auto``."""
    if text == "auto":
        return None
    try:
        return at_least(1)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or auto") from None


class OptionsAction(DictAction):
    """Reads KEY=VALUE arguments as mmengine does; one without an equals sign is an error."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Add the values to the namespace."""
        for value in values:
            if "=" not in value:
                parser.error(f"{option_string}: {value!r} is not of the form KEY=VALUE")
        super().__call__(parser, namespace, values, option_string)


_KEY_VALUES = {"nargs": "+", "action": OptionsAction, "default": {}, "metavar": "KEY=VALUE"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "checkpoint": {"help": "iter_N.pth of a run, or a .safetensors release file"},
    "--device": {"default": "auto", "help": "auto (default), cpu or cuda"},
    "--seed": {"type": int, "default": 0, "help": "default 0"},
    "--batch-size": {
        "type": number_or_auto,
        "metavar": "N",
        "help": "a number, or auto (default) for what fits into memory; changes the samples by "
        "rounding at most",
    },
    "--no-ema": {"action": "store_true", "help": "use the generator as trained"},
    "--cfg-options": {
        **_KEY_VALUES,
        "help": "settings of the config to change, such as model.generator.latent_dim=64",
    },
    "--data": {**_KEY_VALUES, "help": "arguments of the data set to change, such as root=/data"},
    "--import": {
        "nargs": "+",
        "default": [],
        "dest": "packages",
        "metavar": "PACKAGE",
        "help": "packages that register modules",
    },
    "--launcher": {
        "choices": ("none", "pytorch", "slurm"),
        "default": "none",
        "help": "how the processes were started, if there are several",
    },
    "--amp": {"choices": ("off", "bf16", "fp16"), "help": "mixed precision; R1 stays in float32"},
    "--compile": {"action": "store_true", "help": "compile the networks"},
}


def add_options(parser: argparse.ArgumentParser, *names: str, **settings: Any) -> None:
    """Add options that several tools have, such as ``"checkpoint", "--device", "--import"``.

    ``settings`` replace what argparse is told of each of them: ``default=None``, ``help="..."``.
    """
    for name in names:
        parser.add_argument(name, **{**_OPTIONS[name], **settings})


@contextmanager
def running(args: argparse.Namespace) -> Iterator[None]:
    """Do a tool's work: set up the CPU, import ``--import``'s packages, report errors briefly."""
    set_up_cpu()
    with user_errors():
        import_packages(getattr(args, "packages", []))
        yield


@contextmanager
def user_errors() -> Iterator[None]:
    """Print the message of an error that the user can mend, without a traceback, and exit with 1.

    With DDGAN_TRACEBACK=1 in the environment, the traceback is printed as well. Characters that a
    terminal's or file's encoding lacks are printed as escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except USER_ERRORS as error:
        if os.environ.get("DDGAN_TRACEBACK") == "1":
            raise
        print(f"error: {message_of(error)}", file=sys.stderr)
        if not isinstance(error, UserError):
            print("(DDGAN_TRACEBACK=1 shows where it comes from)", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def message_of(error: Exception) -> str:
    """The message of an error; of one from a data worker without the worker's traceback."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        starts = list(re.finditer(rf"^(?:\w+\.)*{type(error).__name__}: ", text, re.MULTILINE))
        return text[starts[-1].end() :].strip() if starts else text
    # str() of a KeyError is the repr of its argument, in quotes.
    is_sentence = isinstance(error, KeyError) and len(error.args) == 1 and " " in str(error.args[0])
    return str(error.args[0]) if is_sentence else text


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left on standard error; yields a function that advances it."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


def import_packages(names: Sequence[str]) -> None:
    """Import packages that register components; raises UserError for one that is missing."""
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(f"--import {name}: {error}; install it or set PYTHONPATH") from None

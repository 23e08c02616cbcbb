"""What the command-line tools share: options, messages of errors, progress."""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ddgan.errors import LostProcessError, UserError
from ddgan.utils.device import set_up_cpu
from ddgan.utils.distributed import follow_launcher, set_slurm_environment, tell_once

# Errors of components for arguments and files that they cannot use: written for the user.
USER_ERRORS = (UserError, ValueError, TypeError, KeyError, OSError)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are printed once, not by every process of a run."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2; the first process says why."""
        rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
        if rank != "0" and any(argument.startswith("--launcher") for argument in sys.argv):
            sys.exit(2)
        super().error(message)


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


class OptionsAction(argparse.Action):
    """Reads KEY=VALUE arguments into a dict of dotted keys."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Add the values to the namespace."""
        options = dict(getattr(namespace, self.dest) or {})
        for pair in values:
            key, equals, value = pair.partition("=")
            if not key or not equals:
                parser.error(f"{option_string}: {pair!r} is not of the form KEY=VALUE")
            try:
                options[key] = read_value(value)
            except ValueError as error:
                parser.error(f"{option_string} {key}: {error}")
        setattr(namespace, self.dest, options)


def read_value(text: str) -> Any:
    """The value that a text on the command line stands for.

    That is a number, True, False, None, a list or tuple in brackets, a list of numbers without
    brackets, or else the text itself, without the quotes that enclose it. Raises
    ValueError for brackets or quotes that do not match in a list.
    """
    value = _read_word(text)
    if not isinstance(value, str) or _is_quoted(text):
        return value
    if _is_list(text):
        items = [read_value(item) for item in _split(text[1:-1])]
        return items if text[0] == "[" else tuple(items)
    if "," in text and not set(text) & set("[](){}\"'"):
        items = [_read_word(item) for item in _split(text)]
        if not any(isinstance(item, str) for item in items):
            return items
    return value


def _read_word(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    constants = {"true": True, "false": False, "none": None}
    if text.lower() in constants and text != "none":
        return constants[text.lower()]
    return text[1:-1] if _is_quoted(text) else text


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] in "\"'" and text.find(text[0], 1) == len(text) - 1


def _split(text: str) -> list[str]:
    """The items of a list, separated by the commas that are not in brackets or quotes."""
    items, open_brackets, quote = [""], "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'" and not items[-1].strip():
            quote = character
        elif character in "[(":
            open_brackets += character
        elif character in "])":
            if open_brackets[-1:] + character not in ("[]", "()"):
                raise ValueError(f"the brackets of {text!r} do not match")
            open_brackets = open_brackets[:-1]
        elif character == "," and not open_brackets:
            items.append("")
            continue
        items[-1] += character
    if open_brackets or quote:
        raise ValueError(f"the brackets or quotes of {text!r} do not match")
    items = [item.strip() for item in items]
    return items if items[-1] else items[:-1]


def _is_list(text: str) -> bool:
    """Whether the bracket that a text begins with is closed by its last character."""
    if text[:1] + text[-1:] not in ("[]", "()"):
        return False
    depth = 0
    for index, character in enumerate(text):
        depth += (character in "[(") - (character in "])")
        if depth == 0:
            return index == len(text) - 1
    return True


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
    launcher = getattr(args, "launcher", "none")
    if launcher == "pytorch":
        follow_launcher()
    with user_errors(several=launcher != "none"):
        if launcher == "slurm":
            set_slurm_environment()
        import_packages(getattr(args, "packages", []))
        yield


@contextmanager
def user_errors(several: bool = False) -> Iterator[None]:
    """Print the message of an error that the user can mend, without a traceback, and exit with 1.

    With DDGAN_TRACEBACK=1 in the environment, the traceback is printed as well. Characters that a
    terminal's or file's encoding lacks are printed as escapes. Of ``several`` processes of a run
    that meet the same error, one prints it.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except USER_ERRORS as error:
        if os.environ.get("DDGAN_TRACEBACK") == "1":
            raise
        message = f"error: {message_of(error)}"
        if not isinstance(error, UserError):
            message += "\n(DDGAN_TRACEBACK=1 shows where it comes from)"
        if several and not isinstance(error, LostProcessError):
            tell_once(message, _say)
        else:
            _say(message)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


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

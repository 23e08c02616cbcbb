"""What the command-line tools share."""

import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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

# What components raise for arguments or files that cannot be: their message is meant for a user.
_MESSAGES = (UserError, ValueError, TypeError, KeyError, OSError)


class OptionsAction(DictAction):
    """Reads KEY=VALUE arguments as mmengine does, and says so if one has no equals sign."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Add the values to the namespace."""
        for value in values:
            if "=" not in value:
                parser.error(f"{option_string}: {value!r} is not of the form KEY=VALUE")
        super().__call__(parser, namespace, values, option_string)


@contextmanager
def user_errors() -> Iterator[None]:
    """Print the message of an error that a user can mend and exit with 1.

    With DDGAN_TRACEBACK=1 in the environment, the traceback is printed as well.
    """
    try:
        yield
    except _MESSAGES as error:
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
    """Return what an error says: of one from a loader's worker its message, not its traceback."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        starts = list(re.finditer(rf"^(?:\w+\.)*{type(error).__name__}: ", text, re.MULTILINE))
        return text[starts[-1].end() :].strip() if starts else text
    # The text of a KeyError is the representation of its argument, in quotes.
    is_sentence = isinstance(error, KeyError) and len(error.args) == 1 and " " in str(error.args[0])
    return str(error.args[0]) if is_sentence else text


@contextmanager
def progress_bar(label: str, total: int) -> Iterator:
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

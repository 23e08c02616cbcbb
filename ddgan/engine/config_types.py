"""Compares the values of a config with the types that components state for their arguments."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from torch import Tensor, nn

from ddgan.errors import ConfigError

_UNKNOWN = object()


def argument_types(component: Callable) -> dict[str, tuple[Any, Any]]:
    """Type and default of each argument whose type is stated, those of base classes included."""
    found: dict[str, tuple[Any, Any]] = {}
    for function in _functions(component):
        try:
            hints = typing.get_type_hints(function)
            parameters = inspect.signature(function).parameters.values()
        # Other packages state types that cannot be resolved.
        except (NameError, TypeError, ValueError, AttributeError):
            continue
        for parameter in parameters:
            if parameter.name in hints and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                found.setdefault(parameter.name, (hints[parameter.name], parameter.default))
    return found


def _functions(component: Callable) -> Iterator[Callable]:
    if not inspect.isclass(component):
        yield component
        return
    for base in component.__mro__:
        if isinstance(function := vars(base).get("__init__"), types.FunctionType):
            yield function
            kinds = {p.kind for p in inspect.signature(function).parameters.values()}
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                return


def checked_values(path: str, node: Mapping, component: Callable) -> dict[str, Any]:
    """The entries of ``node`` that have to change, by their whole key: 1e4 for an int is 10000.

    Raises ConfigError, with the key, for a value of another type than the component states.
    """
    changes: dict[str, Any] = {}
    for name, (hint, default) in argument_types(component).items():
        value = node.get(name, default)
        if name in node and not (type(value) is type(default) and value == default):
            changes |= checked_value(f"{path}.{name}", value, hint)
    return changes


def checked_value(key: str, value: Any, hint: Any) -> dict[str, Any]:
    """The same for one value; None fits every type, as it often stands for a default."""
    fitted = (value,) if value is None else fit(value, hint)
    if fitted is None:
        raise ConfigError(f"{key} is {value!r}; expected {_words(hint)}")
    return {} if fitted is _UNKNOWN or fitted[0] is value else {key: fitted[0]}


def fit(value: Any, hint: Any) -> Any:
    """``(value,)`` as ``hint`` wants it, None if it does not fit, _UNKNOWN for other hints."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        found = [fit(value, argument) for argument in arguments]
        exact = [f for f in found if isinstance(f, tuple) and f[0] is value]
        others = [f for f in found if f is not None]
        return (exact or others or [None])[0]
    if hint is int:
        if isinstance(value, float) and value.is_integer():
            return (int(value),)
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else None
    if hint is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return (value,) if is_number else None
    if hint is bool or hint is type(None):
        return (value,) if isinstance(value, hint) else None
    if hint in (Tensor, nn.Module):  # A config holds what modules are built from.
        return (value,) if isinstance(value, (Mapping, hint)) else None
    if hint is str or hint is Path:
        return (value,) if isinstance(value, (str, Path)) else None
    if origin is Literal:
        return (value,) if value in arguments else None
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        return (value,) if isinstance(value, Mapping) else None
    if hint in (list, tuple, Sequence) or origin in (list, tuple, Sequence):
        return _fit_sequence(value, origin or hint, arguments)
    return _UNKNOWN


def _fit_sequence(value: Any, origin: Any, arguments: tuple) -> Any:
    if not isinstance(value, (list, tuple)):
        return None
    if not arguments:
        return (value,)
    if origin is tuple and arguments[-1] is not ...:
        if len(arguments) != len(value):
            return None
        hints = arguments
    else:
        hints = arguments[:1] * len(value)
    found = [fit(item, hint) for item, hint in zip(value, hints, strict=True)]
    if None in found:
        return None
    items = [item if f is _UNKNOWN else f[0] for item, f in zip(value, found, strict=True)]
    same = all(new is old for new, old in zip(items, value, strict=True))
    return (value,) if same else (type(value)(items),)


def _words(hint: Any) -> str:
    """A type as a person would call it."""
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
    names |= {
        Tensor: "a number",
        nn.Module: "a dict",
        Path: "a path",
        dict: "a dict",
        Mapping: "a dict",
    }
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        known = [argument for argument in arguments if argument is not type(None)]
        return " or ".join(dict.fromkeys(_words(argument) for argument in known))
    if origin is Literal:
        return f"one of {list(arguments)}"
    if origin in (list, tuple, Sequence) or hint in (list, tuple, Sequence):
        inner = [argument for argument in arguments if argument is not ...]
        if origin is tuple and len(inner) > 1 and len(inner) == len(arguments):
            return f"a list of {len(inner)} values"
        return f"a list, each {_words(inner[0])}" if inner else "a list"
    return names.get(origin or hint, getattr(hint, "__name__", str(hint)))

"""Load configs and reject unknown keys."""

import difflib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from mmengine import Config
from mmengine.config import ConfigDict
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmengine.utils import get_object_from_string, import_modules_from_strings
from mmengine.utils.dl_utils import set_multi_processing
from torch import nn
from torch.utils.data import DataLoader

from ddgan.diffusion import Diffusion
from ddgan.engine.config_types import checked_value, checked_values
from ddgan.errors import CheckpointError, ConfigError
from ddgan.registry import REGISTRIES, SCOPE

DEFAULT_HOOKS = {
    "logger": {"type": "TrainingLog"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "replicas": {"type": "EqualReplicas"},
    "checkpoint": {"type": "AtomicCheckpoint"},
}

# Paths within a config; an entry "*" stands for any key. First, what a dict has to hold (one that
# has to hold nothing may also be None).
_REQUIRED: dict[str, tuple[str, ...] | None] = {
    "": ("model", "train_dataloader", "train_cfg", "optim_wrapper"),
    "model": ("type",),
    "train_cfg": ("type",),
    "train_dataloader": ("dataset", "sampler", "batch_size"),
    "train_dataloader.dataset": ("type",),
    "train_dataloader.sampler": ("type",),
    "optim_wrapper": ("constructor",),
    "optim_wrapper.constructor": None,
    "optim_wrapper.*": ("optimizer",),
    "custom_hooks.*": ("type",),
    "default_hooks": (),
    "default_hooks.*": (),
    "evaluation": (),
    "evaluation.*": (),
    "evaluation_dataset": (),
    "env_cfg": (),
    "randomness": (),
}

# The types of dicts that need not name one.
_DEFAULT_TYPES = {
    "optim_wrapper.*": "PrecisionOptimWrapper",
    **{f"default_hooks.{name}": hook["type"] for name, hook in DEFAULT_HOOKS.items()},
}


def _names(*functions: Callable, without: Iterable[str] = ()) -> set[str]:
    """The names of the functions' arguments, but for those of ``*args`` and ``**kwargs``."""
    skipped = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = chain(*(inspect.signature(function).parameters.values() for function in functions))
    return {p.name for p in found if p.kind not in skipped} - {"self", *without}


# The training loop decides on these: it draws whole batches in one endless epoch.
_LOOP_DECIDES = ("batch_sampler", "drop_last", "generator", "persistent_workers", "shuffle")

# The keys of dicts that are no components.
_KEYS: dict[str, set[str]] = {
    "": set(
        """compile custom_hooks custom_imports default_hooks default_scope device env_cfg
        evaluation evaluation_dataset experiment_name launcher load_from log_level model
        optim_wrapper param_scheduler randomness resume train_cfg train_dataloader visualizer
        work_dir""".split()
    ),
    "custom_imports": _names(import_modules_from_strings),
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "env_cfg.dist_cfg": {"backend", "timeout"},
    "env_cfg.mp_cfg": _names(set_multi_processing, without=["distributed"]),
    # Seeds that differ between the processes would break the draws of the global batch.
    "randomness": _names(Runner.set_randomness, without=["diff_rank_seed"]),
    "train_dataloader": _names(DataLoader, without=_LOOP_DECIDES),
    "model.diffusion": _names(Diffusion),
    "optim_wrapper.*.clip_grad": {"type"}
    | _names(nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_, without=["parameters"]),
}


# Types of values that are not a component's argument, or whose component does not state them.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("compile", "resume", "env_cfg.cudnn_benchmark"), bool),
    **dict.fromkeys(("device", "experiment_name", "load_from", "work_dir"), str),
    "log_level": int | str,
    "launcher": Literal["none", "pytorch", "slurm"],
    "env_cfg.dist_cfg.backend": str,
    "env_cfg.dist_cfg.timeout": float,
    "randomness.seed": int,
    "randomness.deterministic": bool,
    "train_dataloader.batch_size": int,
    "train_dataloader.num_workers": int,
    "train_dataloader.prefetch_factor": int,
    "train_dataloader.pin_memory": bool,
    "train_dataloader.timeout": float,
}


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Return the config file at ``path`` with ``options`` (dotted keys) merged in, checked.

    Raises ConfigError if the file is missing or fails, or for a key or component that does not
    exist.
    """
    if not Path(path).is_file():
        raise ConfigError(f"config {str(path)!r} is not a file; configs are found in configs/")
    try:
        # mmengine takes any import for its other syntax, in which bases are imported, too.
        text = Path(path).read_text(encoding="utf-8")
        cfg = Config.fromfile(str(path), lazy_import=None if "read_base" in text else False)
    # A config is Python, and so are those that it is based on.
    except Exception as error:
        cause = error
        # mmengine's own error of a failed import lists sys.path, and not the reason.
        while isinstance(cause, ImportError) and cause.__context__ is not None:
            cause = cause.__context__
        raise ConfigError(
            f"config {path}, or a file that it names in _base_ or custom_imports, cannot be "
            f"executed: {type(cause).__name__}: {cause}"
        ) from error
    if options:
        try:
            cfg.merge_from_dict(dict(options))
        except (KeyError, IndexError, TypeError) as error:
            raise ConfigError(f"--cfg-options {dict(options)} do not fit {path}: {error}") from None
    for name in [name for name, value in cfg.items() if _is_helper(name, value)]:
        cfg.pop(name)
    cfg.setdefault("default_scope", SCOPE)
    cfg.merge_from_dict(check_config(cfg.to_dict()))
    return cfg


def _is_helper(name: str, value: Any) -> bool:
    """Whether a variable of a config only helps to write it: ``_width``, an imported function."""
    return name.startswith("_") or inspect.isroutine(value) or inspect.isclass(value)


def check_config(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Raise ConfigError for a part that is missing, an unknown key or a value of a wrong type.

    Returns what has to change, by dotted keys: whole numbers that were written as floats.
    """
    if not isinstance(cfg.get("custom_hooks") or [], (list, tuple)):
        raise ConfigError(f"custom_hooks is {cfg['custom_hooks']!r}; expected a list of dicts")
    changes: dict[str, Any] = {}
    _check("", cfg, changes)
    if isinstance(schedulers := cfg.get("param_scheduler"), Mapping):
        networks = cfg["optim_wrapper"].keys() - {"constructor"}
        _check_keys("param_scheduler", schedulers, networks)
        for name in networks - schedulers.keys():
            raise ConfigError(
                f"param_scheduler has no {name!r}; expected a list of schedulers, empty for a "
                "constant learning rate"
            )
    return changes


def find_component(name: str) -> Callable | None:
    """Return the component registered as ``name`` in any registry, its parents included."""
    name = name.removeprefix(f"{SCOPE}.").removeprefix("mmengine.")
    for candidate in REGISTRIES:
        candidate.import_from_location()
        node: Registry | None = candidate
        while node is not None:
            if name in node.module_dict:
                return node.module_dict[name]
            node = node.parent
    return None


def config_to_json(cfg: Config) -> str:
    """Return the config as JSON, the form that checkpoints carry: reading it runs no code."""
    return json.dumps(cfg.to_dict(), default=str)


def config_from_json(text: str) -> Config:
    """Return the config that ``config_to_json`` wrote; tuples come back as lists.

    Raises CheckpointError for other text.
    """
    try:
        content = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the config in the file is not JSON ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError("the config in the file describes no model")
    _drop_removed_options(content["model"])
    return Config(ConfigDict(content))


# Options that components had once, with the value that is their behaviour now.
_REMOVED_OPTIONS: dict[str, dict[str, Any]] = {
    "NCSNpp": {
        "resblock_type": "biggan",
        "progressive": "none",
        "progressive_input": "residual",
        "progressive_combine": "sum",
        "fir": True,
        "fir_kernel": [1, 3, 3, 1],
        "resample_with_conv": True,
        "skip_rescale": True,
        "time_embedding": "positional",
        "fourier_scale": 16.0,
        "centered": True,
    },
}


def _drop_removed_options(node: dict[str, Any]) -> None:
    """Let checkpoints load that name a removed option; refuse those that used it otherwise."""
    for key, value in _REMOVED_OPTIONS.get(str(node.get("type")), {}).items():
        if node.pop(key, value) != value:
            raise CheckpointError(
                f"the file's {node['type']} has another {key!r} than {value!r}, an option that no "
                "longer exists; use the version of ddgan that wrote the file"
            )
    for child in node.values():
        if isinstance(child, dict):
            _drop_removed_options(child)


def check_trusted_types(node: Any, path: str = "model") -> None:
    """Raise ConfigError if part of a config from a file of weights names anything unregistered.

    mmengine builds a type that is not registered by importing it, whatever it is, and imports the
    package that ``_scope_`` names.
    """
    if isinstance(node, Mapping):
        if "_scope_" in node:
            raise ConfigError(f"{path} has the key '_scope_'; a file of weights may not name one")
        if "type" in node and (
            not isinstance(node["type"], str) or find_component(node["type"]) is None
        ):
            raise ConfigError(
                f"{path}.type is {node['type']!r}, which no imported package registers; "
                "import the package that defines it first (tools: --import PACKAGE)"
            )
        for key, value in node.items():
            check_trusted_types(value, f"{path}.{key}")
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            check_trusted_types(value, f"{path}.{index}")


def _check(path: str, node: Any, changes: dict[str, Any]) -> None:
    if path in _TYPES:
        changes |= checked_value(path, node, _TYPES[path])
    required, is_dict = _at(path, _REQUIRED), isinstance(node, Mapping)
    if required or (required == () and node is not None):
        lacking = sorted({*required} - {*(node if is_dict else ())})
        if lacking or not is_dict:
            shown = f"a dict of {[*node]}" if is_dict else repr(node)
            raise ConfigError(
                f"{path or 'the config'} is {shown}; expected a dict"
                f"{f' with {lacking}' if lacking else ''}, as in "
                "configs/ddgan_cifar10.py"
            )
    if isinstance(node, Mapping):
        if (keys := _at(path, _KEYS)) is not None:
            _check_keys(path or "the config", node, keys)
            if path == "model.diffusion":
                changes |= checked_values(path, node, Diffusion)
        elif name := node.get("type", _at(path, _DEFAULT_TYPES)):
            changes |= _check_component(path, name, node)
        elif path.startswith("default_hooks."):
            _check_keys("default_hooks", {path.partition(".")[2]: node}, DEFAULT_HOOKS)
        for key, value in node.items():
            _check(f"{path}.{key}" if path else str(key), value, changes)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            _check(f"{path}.{index}", value, changes)


def _at(path: str, table: Mapping[str, Any]) -> Any:
    """The first entry of a table whose pattern fits the path, or None."""
    keys = path.split(".")
    for pattern, value in table.items():
        wanted = pattern.split(".")
        if len(wanted) == len(keys) and fnmatchcase(path, pattern):
            return value
    return None


def _check_component(path: str, name: str | Callable, node: Mapping) -> dict[str, Any]:
    component: Callable | None = name if callable(name) else find_component(name)
    if component is None and "." in name:
        component = get_object_from_string(name)
    if component is None:
        known = [key for candidate in REGISTRIES for key in candidate.module_dict]
        raise ConfigError(f"{path}.type is {name!r}, which is not registered{_hint(name, known)}")
    accepted = _parameters(component)
    if accepted is not None:
        label = f"{path} ({getattr(component, '__name__', component)})"
        _check_keys(label, node, accepted | {"type"})
    return checked_values(path, node, component)


def _parameters(component: Callable) -> set[str] | None:
    """The names of a component's arguments, or None if it takes any."""
    if not inspect.isclass(component):
        return _names(component)
    names: set[str] = set()
    for base in component.__mro__:
        if "__init__" in vars(base):
            names |= _names(base.__init__)
            parameters = inspect.signature(base.__init__).parameters.values()
            if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
                return names
    return None


def _check_keys(path: str, node: Mapping, known: Iterable[str]) -> None:
    for key in node:
        if path == "train_dataloader" and key in _LOOP_DECIDES:
            raise ConfigError(
                f"train_dataloader.{key} would not be read, since the loop draws whole batches in "
                "one endless epoch; remove it"
            )
        if key not in known:
            helper = "; a helper variable's name begins with _" if path == "the config" else ""
            raise ConfigError(f"{path} has no key {key!r}{_hint(key, known)}{helper}")


def _hint(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it knows {sorted(map(str, known))}"

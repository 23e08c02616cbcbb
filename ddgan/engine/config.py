"""Reading configs, and refusing keys that nobody reads."""

import difflib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.config import ConfigDict
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

from ddgan.diffusion import Diffusion
from ddgan.engine.optim import PrecisionOptimWrapper
from ddgan.errors import CheckpointError, ConfigError
from ddgan.registry import REGISTRIES, SCOPE

TOP_LEVEL_KEYS = frozenset(
    """compile custom_hooks custom_imports default_hooks default_scope device env_cfg
    evaluation evaluation_dataset experiment_name load_from log_level model optim_wrapper
    param_scheduler randomness resume train_cfg train_dataloader visualizer work_dir
    launcher""".split()
)
_DICTS = {
    "train_dataloader",
    "default_hooks",
    "optim_wrapper",
    "evaluation",
    "evaluation_dataset",
    "env_cfg",
    "randomness",
}
DEFAULT_HOOKS = {
    "logger": {"type": "TrainingLog"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "replicas": {"type": "EqualReplicas"},
    "checkpoint": {"type": "AtomicCheckpoint"},
}
_DEFAULT_HOOK_PATHS = {f"default_hooks.{name}": hook for name, hook in DEFAULT_HOOKS.items()}
_LOADER_KEYS = {"dataset", "sampler", "batch_sampler", "collate_fn", "worker_init_fn"}
_CLIP_KEYS = {"type", "max_norm", "norm_type", "error_if_nonfinite", "foreach", "clip_value"}

# The keys of the dicts that are not components, and so are not checked against a signature.
_PLAIN_DICTS: dict[str, Iterable[str] | Callable] = {
    "env_cfg": ("cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"),
    "env_cfg.mp_cfg": ("mp_start_method", "opencv_num_threads"),
    "env_cfg.dist_cfg": ("backend", "timeout"),
    "randomness": ("seed", "diff_rank_seed", "deterministic"),
    "custom_imports": ("imports", "allow_failed_imports"),
    "train_dataloader": _LOADER_KEYS | set(inspect.signature(DataLoader).parameters),
    "model.diffusion": set(inspect.signature(Diffusion).parameters),
}


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Return the config file at ``path`` with ``options`` (dotted keys) merged in, checked.

    Raises ConfigError if the file is missing or fails, or for a key or component that does not
    exist.
    """
    if not Path(path).is_file():
        raise ConfigError(f"config {str(path)!r} is not a file; configs are found in configs/")
    try:
        cfg = Config.fromfile(str(path))
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
    cfg.setdefault("default_scope", SCOPE)
    check_config(cfg.to_dict())
    return cfg


def check_config(cfg: Mapping[str, Any]) -> None:
    """Raise ConfigError if the config has a key that nothing would read."""
    _check_keys("the config", cfg, TOP_LEVEL_KEYS)
    for missing in {"model", "train_dataloader", "train_cfg", "optim_wrapper"} - set(cfg):
        raise ConfigError(f"the config has no {missing!r}; see configs/ddgan_cifar10.py for one")
    _check_structure(cfg)
    _check("", cfg)


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
    except (TypeError, ValueError) as error:
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


def _check_structure(cfg: Mapping[str, Any]) -> None:
    """Check the parts that are neither components nor plain dicts."""
    for key in _DICTS & cfg.keys():
        if cfg[key] is not None and not isinstance(cfg[key], Mapping):
            raise ConfigError(f"{key} is {cfg[key]!r}; expected a dict")
    if not isinstance(cfg.get("custom_hooks") or [], (list, tuple)):
        raise ConfigError(f"custom_hooks is {cfg['custom_hooks']!r}; expected a list of dicts")
    loader = cfg["train_dataloader"]
    for path, node in {
        "model": cfg["model"],
        "train_cfg": cfg["train_cfg"],
        "train_dataloader.dataset": loader.get("dataset"),
        "train_dataloader.sampler": loader.get("sampler"),
        **{f"custom_hooks.{i}": hook for i, hook in enumerate(cfg.get("custom_hooks") or [])},
    }.items():
        if not isinstance(node, Mapping) or "type" not in node:
            raise ConfigError(f"{path} is {node!r}; expected a dict with a 'type'")
    for name, hook in (cfg.get("default_hooks") or {}).items():
        if hook is not None and not isinstance(hook, Mapping):
            raise ConfigError(
                f"default_hooks.{name} is {hook!r}; expected a dict, or None for none"
            )
        if hook is not None and "type" not in hook:
            _check_keys("default_hooks", {name: hook}, DEFAULT_HOOKS)
    if "constructor" not in cfg["optim_wrapper"]:
        raise ConfigError(
            "optim_wrapper has no constructor; expected 'PerNetworkOptimWrapperConstructor'"
        )
    for name, entry in (cfg.get("evaluation") or {}).items():
        if not isinstance(entry, Mapping):
            raise ConfigError(f"evaluation.{name} is {entry!r}; expected a dict, dict(num=…) say")
    networks = {name: v for name, v in cfg["optim_wrapper"].items() if name != "constructor"}
    for name, entry in networks.items():
        if not isinstance(entry, Mapping) or "optimizer" not in entry:
            raise ConfigError(
                f"optim_wrapper.{name} is {entry!r}; expected dict(optimizer=dict(type=..., ...))"
            )
        if "type" not in entry:
            _check_keys(f"optim_wrapper.{name}", entry, _parameters(PrecisionOptimWrapper))
    if isinstance(schedulers := cfg.get("param_scheduler"), Mapping):
        _check_keys("param_scheduler", schedulers, networks)
        for name in networks.keys() - schedulers.keys():
            raise ConfigError(
                f"param_scheduler has no {name!r}; expected a list of schedulers, empty for a "
                "constant learning rate"
            )


def _check(path: str, node: Any) -> None:
    if isinstance(node, Mapping):
        if path.startswith("optim_wrapper.") and path.endswith(".clip_grad"):
            # Its type is "norm" or "value", not a component.
            _check_keys(path, node, _CLIP_KEYS)
        elif "type" not in node and path in _DEFAULT_HOOK_PATHS:
            _check_component(path, {**_DEFAULT_HOOK_PATHS[path], **node})
        elif "type" in node:
            _check_component(path, node)
        elif path in _PLAIN_DICTS:
            _check_keys(path, node, _PLAIN_DICTS[path])
        for key, value in node.items():
            _check(f"{path}.{key}" if path else str(key), value)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            _check(f"{path}.{index}", value)


def _check_component(path: str, node: Mapping) -> None:
    name = node["type"]
    if isinstance(name, str):
        component = find_component(name)
        if component is None and "." in name:
            component = get_object_from_string(name)
        if component is None:
            known = [key for candidate in REGISTRIES for key in candidate.module_dict]
            raise ConfigError(
                f"{path}.type is {name!r}, which is not registered{_hint(name, known)}"
            )
    else:
        component = name
    accepted = _parameters(component)
    if accepted is not None:
        label = f"{path} ({getattr(component, '__name__', component)})"
        _check_keys(label, node, accepted | {"type"})


def _parameters(component: Callable) -> set[str] | None:
    """Return the names of a component's arguments, or None if it takes any."""
    if not inspect.isclass(component):
        return _names(component)[0]
    names: set[str] = set()
    for base in component.__mro__:
        if "__init__" in vars(base):
            own, is_open = _names(base.__init__)
            names |= own
            if not is_open:
                return names
    return None


def _names(function: Callable) -> tuple[set[str], bool]:
    parameters = inspect.signature(function).parameters.values()
    is_open = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    fixed = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name for p in parameters if p.kind not in fixed} - {"self"}, is_open


def _check_keys(path: str, node: Mapping, known: Iterable[str]) -> None:
    for key in node:
        if key not in known:
            raise ConfigError(f"{path} has no key {key!r}{_hint(key, known)}")


def _hint(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it knows {sorted(map(str, known))}"

"""A key that is accepted is honoured: changing a value of a shipped config changes something.

Each component that the configs name is built as it is and with each of its values changed; what is
built has to differ, or the change has to be an error. A key is tried once for each component type.
"""

from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.registry import VISUALIZERS, DefaultScope
from test_components import ARGUMENTS
from torch import nn

from ddgan.engine import Runner, TrainLoop, load_config
from ddgan.engine.config import DEFAULT_HOOKS
from ddgan.engine.optim import build_optim_wrappers
from ddgan.registry import (
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
)

CONFIGS = Path(__file__).parents[2] / "configs"
CHANGED = "_changed"
LEAVES = [p for p in sorted(CONFIGS.rglob("*.py")) if "_base_" not in p.parts]


def others(value):
    """Other values of the same kind; one may mean the same, as a width beyond a limit does."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value * 2 + (value == 0), value / 4, value // 4]
    if isinstance(value, str):
        return [f"{value}{CHANGED}"]
    if value is None:
        return [1]
    return [[*value, 1], [*value][:-1]] if value else [[1]]


def leaves(node, path=()):
    """The path of each value: keys of dicts, and of lists only where these hold dicts."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, (list, tuple)) and any(isinstance(item, dict) for item in node):
        for index, value in enumerate(node):
            yield from leaves(value, (*path, index))
    else:
        yield path


def with_value(node, path, value):
    if not path:
        return value
    if isinstance(node, dict):
        return {**node, path[0]: with_value(node[path[0]], path[1:], value)}
    return [with_value(v, path[1:], value) if i == path[0] else v for i, v in enumerate(node)]


def value_at(node, path):
    for key in path:
        node = node[key]
    return node


def state_of(built, seen=None):
    """What an object holds, as text: numbers, names, and the shapes of tensors."""
    seen = set() if seen is None else seen
    if isinstance(built, torch.Tensor):
        shape = f"{tuple(built.shape)} {built.dtype}"
        return shape if built.is_meta else f"{shape} {built.double().sum()}"
    if isinstance(built, np.ndarray):
        return f"{built.shape} {built.dtype}"
    if built is None or isinstance(built, (bool, int, float, str, bytes, Path, torch.dtype)):
        return repr(built)
    if id(built) in seen:
        return "..."
    seen.add(id(built))
    if isinstance(built, dict):
        return str({str(key): state_of(value, seen) for key, value in built.items()})
    if isinstance(built, (list, tuple)):
        return str([state_of(value, seen) for value in built])
    if hasattr(built, "func") and hasattr(built, "keywords"):
        return state_of([built.func, built.args, built.keywords], seen)
    if not hasattr(built, "__dict__") or hasattr(built, "__qualname__"):
        return getattr(built, "__qualname__", type(built).__name__)
    return f"{type(built).__name__} {state_of(vars(built), seen)}"


def build_model(node, folder):
    """Networks hold no numbers (they are large); what a model holds itself is on the CPU."""
    children = {
        key: node[key]
        for key in ("generator", "discriminator", "mapping", "synthesis")
        if isinstance(node.get(key), dict)
    }
    with torch.device("meta"):
        built = {key: MODELS.build(child) for key, child in children.items()}
        if not built:
            component = MODELS.get(node["type"])
            if "num_steps" in signature(component).parameters:  # the model passes its own on
                node = {"num_steps": 2, **node}
            return state_of(MODELS.build(node))
    return state_of(MODELS.build({**node, **built}))


def build_dataset(node, folder):
    files = ARGUMENTS[node["type"]](folder)
    changed = {key: value for key, value in node.items() if str(value).endswith(CHANGED)}
    return state_of(DATASETS.build({**node, **files, **changed}))


def build_loop(node, folder):
    loader, arguments = dict(node["train_dataloader"]), dict(node["train_cfg"])
    assert arguments.pop("type") == "TrainLoop"
    loader |= {"dataset": range(10**6), "sampler": {"seed": 1, **loader["sampler"]}}
    runner = SimpleNamespace(
        device=torch.device("cuda"),
        model=nn.Module(),
        build_dataloader=Runner.build_dataloader,
        _randomness_cfg={},
        seed=0,
    )
    with DefaultScope.overwrite_default_scope("ddgan"):
        loop = TrainLoop(runner, loader, **arguments)
    data = loop.dataloader
    settings = [data.batch_size, data.num_workers, data.pin_memory, type(data.sampler)]
    return state_of([settings, vars(data.sampler), loop.max_iters])


def build_optimizers(node, folder):
    model = nn.Module()
    for name in node["optim_wrapper"].keys() - {"constructor"}:
        model.add_module(name, nn.Linear(1, 1))
    wrappers = build_optim_wrappers(node["optim_wrapper"], model)
    result = [
        [name, vars(wrapper), wrapper.optimizer.defaults] for name, wrapper in wrappers.items()
    ]
    for name, schedulers in (node["param_scheduler"] or {}).items():
        for scheduler in schedulers:
            built = PARAM_SCHEDULERS.build({**scheduler, "optimizer": wrappers[name]})
            result.append([name, built.state_dict()])
    return state_of(result)


def build_visualizer(node, folder):
    built = VISUALIZERS.build({**node, "name": str(folder), "save_dir": str(folder)})
    return state_of([type(built).__name__, list(built._vis_backends)])


def builder(registry):
    return lambda node, folder: state_of(registry.build(node))


def typed(node):
    """The components within a part of a config."""
    if isinstance(node, dict):
        if "type" in node:
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from typed(value)


def parts():
    """Each distinct (name, builder, part of a config)."""
    found = {}

    def add(build, name, node):
        for path in leaves(node):
            if build is build_loop or build is build_optimizers or not inside(node, path):
                found.setdefault((name, path), (build, node))

    for config in LEAVES:
        cfg = load_config(config).to_dict()
        for node in typed(cfg["model"]):
            add(build_model, node["type"], node)
        dataset = cfg["train_dataloader"]["dataset"]
        add(build_dataset, dataset["type"], dataset)
        for node in typed(dataset.get("pipeline")):
            add(builder(TRANSFORMS), node["type"], node)
        loader = {k: v for k, v in cfg["train_dataloader"].items() if k != "dataset"}
        add(build_loop, "loop", {"train_dataloader": loader, "train_cfg": cfg["train_cfg"]})
        keys = ("optim_wrapper", "param_scheduler")
        add(build_optimizers, "optimizers", {key: cfg.get(key) for key in keys})
        for node in cfg["custom_hooks"]:
            add(builder(HOOKS), node["type"], node)
        for name, node in cfg["default_hooks"].items():
            add(builder(HOOKS), node["type"], {**DEFAULT_HOOKS.get(name, {}), **node})
        for node in (cfg.get("evaluation") or {}).values():
            if "type" in node:
                add(builder(METRICS), node["type"], node)
        add(build_visualizer, "visualizer", cfg["visualizer"])
    return found


def inside(node, path):
    """Whether a path leads into another component, which is built by itself."""
    for key in path[:-1]:
        node = node[key]
        if isinstance(node, dict) and "type" in node:
            return True
    return False


def outcome(build, node, folder):
    folder.mkdir(exist_ok=True)
    try:
        return build(node, folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def has_effect(build, node, path, folder, original):
    for value in others(value_at(node, path)):
        if outcome(build, with_value(node, path, value), folder) != original:
            return True
    # Numbers that only scale random weights do not show in the shapes of networks.
    return build is build_model and len({weights(node, path, v) for v in (None, 0.5, 7)}) > 1


def weights(node, path, value):
    torch.manual_seed(0)
    built = MODELS.build(node if value is None else with_value(node, path, value))
    return state_of(built)


def test_every_key_of_every_config_has_an_effect(tmp_path):
    found, originals, without = parts(), {}, []
    for (name, path), (build, node) in found.items():
        key = (name, id(node))
        if key not in originals:
            originals[key] = outcome(build, node, tmp_path)
        if not has_effect(build, node, path, tmp_path, originals[key]):
            without.append((name, *path))
    assert len(found) > 150
    assert without == []
    # The files made here are too small for these two; a change then shows in the error.
    failed = {name for (name, _), text in originals.items() if "Error: " in text[:40]}
    assert failed <= {"ImageLMDB", "ImageMemmap"}


def test_every_part_of_a_config_is_covered():
    """What is not in ``parts`` is tested here or elsewhere."""
    covered = {"model", "train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"}
    covered |= {"custom_hooks", "default_hooks", "evaluation", "visualizer"}
    covered |= {"default_scope"}  # every lookup
    covered |= {"randomness", "env_cfg"}  # below; the timeout in test_faults.py
    for config in LEAVES:
        assert set(load_config(config)) <= covered


def test_seed_and_environment_are_those_of_the_config(tmp_path):
    cfg = load_config(CONFIGS / "ddgan_gaussians25.py", {"randomness.seed": 7})
    cfg.work_dir, cfg.device = str(tmp_path), "cpu"
    before = torch.backends.cudnn.benchmark
    try:
        for value in (False, True):
            torch.backends.cudnn.benchmark = False
            cfg.env_cfg.cudnn_benchmark = value
            assert Runner.from_cfg(cfg).seed == 7
            assert torch.backends.cudnn.benchmark is value
    finally:
        torch.backends.cudnn.benchmark = before

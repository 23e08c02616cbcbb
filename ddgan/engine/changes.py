"""What a run that is resumed does otherwise than before."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.runner import Runner

from ddgan.engine.config import config_to_json

# What the numbers depend on; the rest is where a run is started and what it reports.
_COMPUTED = (
    "model",
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
    "train_dataloader",
    "compile",
)
# Optimizers and schedulers come from a checkpoint whole.
_RESTORED = ("optim_wrapper", "param_scheduler", "train_cfg.max_iters")
_NOTHING = "nothing"


def changes_on_resume(runner: Runner, meta: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each thing that differs from the run that wrote a checkpoint."""
    sentences = []
    if meta["seed"] != runner.seed:
        sentences.append(f"The seed changes from {meta['seed']} to {runner.seed}")
    before, count = meta["global_batch_size"], runner.world_size
    batch = runner.train_loop.global_batch_size
    if meta["world_size"] != count:
        sentences.append(
            f"The run goes on with {count} process(es) instead of {meta['world_size']}"
        )
    if batch != before:
        sentences.append(
            f"The global batch changes from {before} to {batch}: train_dataloader.batch_size is "
            "that of one process"
        )
    old = dict(_leaves(json.loads(meta["config"])))
    new = dict(_leaves(json.loads(config_to_json(runner.cfg))))
    changed = [key for key in {**old, **new} if old.get(key, _NOTHING) != new.get(key, _NOTHING)]
    changed = [key for key in changed if key.startswith(_COMPUTED)]
    if changed:
        listed = [f"{k} from {old.get(k, _NOTHING)} to {new.get(k, _NOTHING)}" for k in changed]
        sentences.append(f"The config changes: {', '.join(listed)}")
    if any(key.startswith(_RESTORED) for key in changed):
        sentences.append(
            "Learning rates, their schedules (with the length that they were made for) and all "
            "settings of the optimizers go on as in the checkpoint. For others, begin a new run "
            "with its weights: --cfg-options load_from=CHECKPOINT"
        )
    return sentences


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list) and any(isinstance(value, (dict, list)) for value in node):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}.{index}")
    else:
        yield path, node

"""Files of weights: training checkpoints that survive a crash, and small safe release files."""

import errno
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine import Config
from mmengine.logging import print_log
from mmengine.runner import Runner
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ddgan.engine.config import config_from_json, config_to_json
from ddgan.errors import CheckpointError, UserError
from ddgan.utils.files import (
    check_archive,
    check_not_a_page,
    file_sha256,
    is_temporary,
    refusal,
    write_atomically,
)

RELEASE_FORMAT = "ddgan-release-1"
CHECKPOINT_FORMAT = "ddgan-checkpoint-1"
LAST_CHECKPOINT = "last_checkpoint"
# A checkpoint ends with the digest of everything before it, as the comment of its zip archive.
_DIGEST = b"sha256:"
_COMMENT_SIZE = len(_DIGEST) + 64
# What a network file system answers while its server is away.
_AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV)
_NAME = re.compile(r"iter_(\d+)\.pth")
_STAMP = re.compile(r"\d{8}_\d{6}")  # of mmengine's folder of logs
# The settings that results depend on; the others say where a run is and what it reports.
_COMPUTED = (
    "model",
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
    "train_dataloader",
    "compile",
)
# Optimizers and schedulers are restored whole.
_RESTORED = ("optim_wrapper", "param_scheduler", "train_cfg.max_iters")
_NOTHING = "nothing"


def remove_left_overs(folder: str | Path) -> None:
    """Delete the temporary files of a killed process; no other process may be writing there."""
    for pattern in (".*.pth.*.tmp", f".{LAST_CHECKPOINT}.*.tmp"):
        for path in filter(is_temporary, Path(folder).glob(pattern)):
            path.unlink()


def save_checkpoint(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Write a training checkpoint atomically.

    Storage that is away is waited for, up to DDGAN_STORAGE_PATIENCE seconds (60). Raises
    CheckpointError if the file cannot be written.
    """
    path = Path(path)
    content = {"format": CHECKPOINT_FORMAT, **payload}
    wait = 0.5
    deadline = time.monotonic() + float(os.environ.get("DDGAN_STORAGE_PATIENCE") or 60)
    while True:
        try:
            write_atomically(path, lambda temporary: _save_sealed(content, temporary))
            return
        except (OSError, RuntimeError) as error:
            # torch reports a failed write as a RuntimeError of its archive writer.
            if not _storage_is_away(error, path.parent) or time.monotonic() + wait > deadline:
                raise CheckpointError(
                    f"checkpoint {path} could not be written ({error}); free space or fix the "
                    "permissions of its folder, then resume: earlier checkpoints are untouched"
                ) from error
            print_log(f"{path} could not be written ({error}): trying again", "current", 30)
        time.sleep(wait)
        wait = min(2 * wait, 10)


def _storage_is_away(error: OSError | RuntimeError, folder: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in _AWAY
    try:
        folder.stat()
    except OSError as reason:
        return reason.errno in _AWAY
    return False


def read_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a training checkpoint after checking its digest; nothing in the file is executed.

    Raises CheckpointError if the file is missing, truncated, altered or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    check_not_a_page(path)
    check_digest(path)
    check_archive(path)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read without running code from it, or is damaged: "
            f"{refusal(error)}"
        ) from None
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(f"{path} is not a training checkpoint of this project")
    return content


def check_digest(path: Path) -> None:
    """Raise CheckpointError unless the file ends with the SHA-256 of everything before it."""
    try:
        with open(path, "rb") as file:
            sealed = file.seek(-_COMMENT_SIZE, os.SEEK_END)
            comment = file.read()
        if not comment.startswith(_DIGEST):
            raise ValueError("it has no digest at its end")
        whole = comment == _DIGEST + file_sha256(path, sealed).encode()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a training checkpoint of this project ({error}); resume "
            "from another one. Released weights of the official code are converted with "
            "tools/convert_official.py"
        ) from None
    if not whole:
        raise CheckpointError(
            f"{path} is damaged: its digest is not that of what was written; resume from another "
            "one"
        )


def newest_good_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a folder; damaged ones are named in the log."""
    for path in reversed(list_checkpoints(work_dir)):
        try:
            check_digest(path)
        except CheckpointError as error:
            print_log(f"Passing over a damaged checkpoint: {error}", "current", 30)
        else:
            return path
    return None


def list_checkpoints(work_dir: str | Path) -> list[Path]:
    """The checkpoints ``iter_N.pth`` of a folder, by iteration."""
    found = [p for p in Path(work_dir).glob("iter_*.pth") if _NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(_NAME.fullmatch(p.name)[1]))


def newest_checkpoint(root: str | Path, run: str = "*") -> tuple[Path, str]:
    """The last whole checkpoint of the newest run below ``root``, and why it was chosen.

    A run's age is in the names of its log folders, which copies keep; the times of files count
    where there are none. In a run, the iteration in the name counts. Raises UserError without any.
    """
    runs = {path.parent for path in Path(root).glob(f"{run}/iter_*.pth")}
    for folder in sorted(runs, key=_started, reverse=True):
        if path := newest_good_checkpoint(folder):
            reason = f"the last of {len(list_checkpoints(folder))} checkpoints in {folder}"
            if len(runs) > 1:
                reason += f", the newest of {len(runs)} runs: begun {_started(folder)}"
            return path, reason
    raise UserError(f"there is no run in {root}/{run}; name a checkpoint, or train first")


def _started(run: Path) -> str:
    """When a run was last started, as ``YYYYmmdd_HHMMSS``."""
    stamps = [path.name[:15] for path in run.iterdir() if _STAMP.match(path.name)]
    written = max((path.stat().st_mtime for path in list_checkpoints(run)), default=0)
    return max(stamps, default=time.strftime("%Y%m%d_%H%M%S", time.localtime(written)))


def load_state(
    model: nn.Module,
    state: Mapping[str, Any],
    source: str | Path,
    optional: tuple[str, ...] = (),
) -> None:
    """Load a state dict into a model; names that begin with one of ``optional`` may be missing.

    Raises CheckpointError, and changes nothing, if names or shapes differ.
    """
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{source} has no weights by name; take another file")
    own = model.state_dict()
    missing = [name for name in own.keys() - state.keys() if not name.startswith(optional)]
    unknown = state.keys() - own.keys()
    if missing or unknown:
        raise CheckpointError(
            f"{source} does not fit the model of the config: it lacks {sorted(missing)[:3]} "
            f"({len(missing)} in all) and has unknown {sorted(unknown)[:3]} ({len(unknown)})"
        )
    for name, value in state.items():
        if _form(value) != _form(own[name]):
            raise CheckpointError(
                f"{source} does not fit the model of the config: {name} is {_form(value)} in "
                f"the file and {_form(own[name])} in the model"
            )
    try:
        model.load_state_dict(state, strict=False)
    # Counters of another form, or tensors without values, make torch raise nearly anything.
    except Exception as error:
        raise CheckpointError(
            f"{source} is damaged: it cannot be loaded ({type(error).__name__}: {refusal(error)}); "
            "take another file"
        ) from error


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load the weights of ``read_weights``; everything but the averaged generator may be missing.

    Without a generator in them, it is set to the averaged one. Raises
    CheckpointError, and changes nothing, if names or shapes differ.
    """
    if not any(str(name).startswith("generator.") for name in state):
        state = {**state} | {
            name.replace("generator_ema.", "generator.", 1): tensor
            for name, tensor in state.items()
            if str(name).startswith("generator_ema.")
        }
    # A file may lack what only training needs: discriminator, augmentation, counters.
    training_only = {n for n in model.state_dict() if not n.startswith("generator")}
    load_state(model, state, source, optional=tuple(training_only))


def changes_on_resume(runner: Runner, meta: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting that differs from those of the run that wrote a checkpoint."""
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


def save_release(
    path: str | Path, state: Mapping[str, Tensor], config: Config, info: Mapping[str, str]
) -> None:
    """Write weights with the config that rebuilds their model as a safetensors file.

    ``state`` has names of the model's state dict; ``info`` is kept as metadata.
    """
    metadata = {**info, "format": RELEASE_FORMAT, "config": config_to_json(config)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata=metadata))


def read_weights(path: str | Path) -> tuple[Config, dict[str, Tensor], dict[str, str]]:
    """The (config, state dict, information) of a release file or a training checkpoint.

    Raises CheckpointError if the file is missing, damaged or of another kind. Nothing in it is
    executed.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_release(path)
    content = read_checkpoint(path)
    try:
        meta, state = content["meta"], content["state_dict"]
        info = {"iteration": str(int(meta["iter"])), "training_seed": str(meta["seed"])}
        # Checkpoints of the first versions lack the latter.
        counts = {"samples_seen": "images_seen", "global_batch_size": "global_batch_size"}
        info |= {name: str(int(meta[key])) for key, name in counts.items() if key in meta}
        config = meta["config"]
        if not isinstance(state, Mapping):
            raise TypeError(f"state_dict is {type(state).__name__}")
    # A part of another form, such as a tensor, raises nearly anything.
    except Exception as error:
        raise CheckpointError(
            f"{path} lacks a part of a training checkpoint, or has it in another form "
            f"({type(error).__name__}: {refusal(error)}); take another one"
        ) from None
    return config_from_json(config), state, info


def _read_release(path: Path) -> tuple[Config, dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"file of weights {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            info = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file: {refusal(error)}"
        ) from None
    if info.pop("format", None) != RELEASE_FORMAT or "config" not in info:
        raise CheckpointError(
            f"{path} is a safetensors file, but not one that this project wrote: it lacks a config"
        )
    return config_from_json(info.pop("config")), state, info


def _save_sealed(content: dict[str, Any], path: Path) -> None:
    torch.save(content, path)
    with open(path, "r+b") as file:
        # An archive ends with the length of its comment, in two bytes.
        file.seek(-2, os.SEEK_END)
        file.write(_COMMENT_SIZE.to_bytes(2, "little"))
        file.flush()
        file.write(_DIGEST + file_sha256(path).encode())


def _form(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list) and any(isinstance(value, (dict, list)) for value in node):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}.{index}")
    else:
        yield path, node

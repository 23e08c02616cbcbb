"""Reading the files of the published DDGAN release and converting their weights."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddgan.errors import CheckpointError
from ddgan.networks.discriminator import TimeDependentDiscriminator
from ddgan.networks.ncsnpp import NCSNpp
from ddgan.networks.official_layout import Slot, discriminator_slots, generator_slots
from ddgan.utils.files import check_archive

State = Mapping[str, Tensor]


def convert_generator(state: State, generator: nn.Module) -> dict[str, Tensor]:
    """Return the state of ``generator`` from an official one, with or without 'module.' prefix.

    Every official tensor is used exactly once. Raises CheckpointError for another architecture,
    naming the first tensor that differs.
    """
    if not isinstance(generator, NCSNpp):
        raise CheckpointError(
            f"the config's generator is {type(generator).__name__}; expected NCSNpp"
        )
    return _convert(state, generator_slots(generator), generator)


def convert_discriminator(state: State, discriminator: nn.Module) -> dict[str, Tensor]:
    """Return the state of ``discriminator`` from an official one, like ``convert_generator``."""
    if not isinstance(discriminator, TimeDependentDiscriminator):
        raise CheckpointError(
            f"the config's discriminator is {type(discriminator).__name__}; expected "
            "TimeDependentDiscriminator"
        )
    return _convert(state, discriminator_slots(discriminator), discriminator)


def _convert(state: State, slots: Mapping[str, Slot], network: nn.Module) -> dict[str, Tensor]:
    state = without_prefix(state)
    ours = network.state_dict()
    _check_fit(state, slots, ours, type(network).__name__)
    converted = {key: torch.empty(tensor.shape, dtype=tensor.dtype) for key, tensor in ours.items()}
    for name, slot in slots.items():
        tensor = state[name]
        converted[slot.key][slot.start : slot.stop] = tensor.T if slot.transposed else tensor
    return converted


def without_prefix(state: State) -> dict[str, Tensor]:
    """Return ``state`` without the 'module.' that distributed training puts before each name."""
    prefix = "module."
    if state and all(name.startswith(prefix) for name in state):
        return {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return dict(state)


def _check_fit(state: State, slots: Mapping[str, Slot], ours: State, network: str) -> None:
    problems = []
    for name, slot in slots.items():
        expected = slot.official_shape(ours[slot.key])
        if name in state and tuple(state[name].shape) != expected:
            problems.append(
                f"{name} is {tuple(state[name].shape)} in the file but {expected} in the config"
            )
            break
    for description, names in (
        ("missing from the file", [n for n in slots if n not in state]),
        ("in the file but not in the config", [n for n in state if n not in slots]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{', '.join(names[:3])}{more} {description}")
    if problems:
        raise CheckpointError(
            f"the official weights do not fit the config's {network}: {'; '.join(problems)}. "
            "Use the config that they were trained with."
        )


@dataclass
class OfficialFile:
    """What a file of the release holds: weights by official name, and where training stood."""

    generator_ema: dict[str, Tensor]
    generator: dict[str, Tensor] | None = None
    discriminator: dict[str, Tensor] | None = None
    info: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def read_official(path: str | Path) -> OfficialFile:
    """Read a ``netG_*.pth`` or ``content.pth``; no code in the file runs.

    Raises CheckpointError for a missing or damaged file, one that holds anything beside tensors,
    plain values and the release's argument namespace, or one of another form.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a netG_*.pth or content.pth")
    if zipfile.is_zipfile(path):  # else a file of torch < 1.6, which is not compressed
        check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no file of the release: it is damaged or holds objects that loading "
            f"would have to run code for, and was refused ({str(error).splitlines()[0]})"
        ) from error
    # torch raises nearly anything on damaged files, IndexError and AssertionError for instance.
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read; is it complete? ({error})") from error
    info = {"source": f"official DDGAN release, {path.name}"}
    if _is_state(content):
        epoch = re.fullmatch(r"netG_(\d+)", path.stem)
        return OfficialFile(content, info=info | ({"epoch": epoch[1]} if epoch else {}))
    if isinstance(content, dict) and _is_state(content.get("netG_dict")):
        try:
            return _read_content(content, info, path)
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} has netG_dict, but is otherwise not of the release's form ({error!r})"
            ) from error
    raise CheckpointError(
        f"{path} holds neither a generator's tensors (netG_*.pth) nor netG_dict (content.pth)"
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(tensor, Tensor) for tensor in value.values())
    )


def _read_content(content: dict[str, Any], info: dict[str, str], path: Path) -> OfficialFile:
    generator = dict(content["netG_dict"])
    file = OfficialFile(generator, generator, content.get("netD_dict"), info)
    for ours, theirs in (("epoch", "epoch"), ("iteration", "global_step")):
        if theirs in content:
            file.info[ours] = str(content[theirs])
    optimizer = content.get("optimizerG") or {}
    moments = optimizer.get("state", {})
    if any("ema" in values for values in moments.values()):
        order = [index for group in optimizer["param_groups"] for index in group["params"]]
        file.generator_ema = _ema_of(generator, moments, order, path)
    file.unused = [
        f"{key} ({_count_tensors(content[key])} tensors{', EMA aside' if ema else ''})"
        for key, ema in (("optimizerG", file.generator_ema is not generator), ("optimizerD", False))
        if key in content
    ]
    file.unused += [key for key in ("schedulerG", "schedulerD", "args") if key in content]
    return file


def _ema_of(
    generator: State, moments: Mapping[int, Mapping[str, Any]], order: Sequence[int], path: Path
) -> dict[str, Tensor]:
    """Return the averaged weights, which the release keeps per parameter in its optimizer.

    The parameters have the order of the state's names, as the network has no buffers.
    """
    if len(order) != len(generator):
        raise CheckpointError(
            f"{path}: optimizerG has {len(order)} parameters but netG_dict {len(generator)} "
            "tensors, so its averaged weights cannot be assigned; the file is inconsistent"
        )
    averaged = {}
    for name, index in zip(generator, order, strict=True):
        ema = moments.get(index, {}).get("ema")
        if not isinstance(ema, Tensor) or ema.shape != generator[name].shape:
            got = f"of shape {tuple(ema.shape)}" if isinstance(ema, Tensor) else "missing"
            raise CheckpointError(
                f"{path}: the averaged {name} in optimizerG is {got}; expected "
                f"{tuple(generator[name].shape)}"
            )
        averaged[name] = ema
    return averaged


def _count_tensors(optimizer: Mapping[str, Any]) -> int:
    return sum(
        isinstance(value, Tensor)
        for values in optimizer.get("state", {}).values()
        for key, value in values.items()
        if key != "ema"
    )


def convert_model(file: OfficialFile, model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model with ``generator_ema``, ``generator`` and ``discriminator``.

    It has the networks that the file has; a ``netG_*.pth`` only fills ``generator_ema``.
    """
    parts = [("generator_ema", convert_generator(file.generator_ema, model.generator_ema))]
    if file.generator is not None:
        parts.append(("generator", convert_generator(file.generator, model.generator)))
    if file.discriminator is not None:
        converted = convert_discriminator(file.discriminator, model.discriminator)
        parts.append(("discriminator", converted))
    return {f"{part}.{key}": tensor for part, state in parts for key, tensor in state.items()}

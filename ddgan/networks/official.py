"""The weights of the published DDGAN release: reading its files, and where each tensor belongs.

The release numbers its generator's modules in the order of execution and keeps every small
projection as a separate layer; here modules have names and projections are joined. The
correspondence follows from the structure of the network that receives the weights.
"""

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddgan.errors import CheckpointError
from ddgan.networks.blocks import InputPyramid, ResBlock
from ddgan.networks.discriminator import TimeDependentDiscriminator
from ddgan.networks.layers import Attention, SplitLinear
from ddgan.networks.ncsnpp import NCSNpp
from ddgan.utils.files import check_archive, check_not_a_page, refusal

State = Mapping[str, Tensor]


# Where each official tensor belongs.


@dataclass(frozen=True)
class Destination:
    """Where an official tensor goes: rows [start, stop) of our tensor ``key``."""

    key: str
    start: int
    stop: int
    transposed: bool = False  # the release stores weights named W as (in, out)

    def official_shape(self, ours: Tensor) -> tuple[int, ...]:
        """The shape that the official tensor must have."""
        shape = (self.stop - self.start, *ours.shape[1:])
        return shape[::-1] if self.transposed else shape


Layout = dict[str, Destination]  # by official name


class _LayoutBuilder:
    """Collects a layout, finding our names from the modules."""

    def __init__(self, root: nn.Module):
        self.names = {module: name for name, module in root.named_modules()}
        self.layout: Layout = {}
        self._parts_used: dict[SplitLinear, int] = {}

    def whole(self, official: str, module: nn.Module) -> None:
        """Map ``official``'s parameters to all of a module's, which have the same names."""
        for name, parameter in module.named_parameters(recurse=False):
            key = f"{self.names[module]}.{name}"
            self.layout[f"{official}.{name}"] = Destination(key, 0, len(parameter))

    def part(self, official: str, module: SplitLinear, weight: str = "weight", bias: str = "bias"):
        """Map ``official``'s two tensors to the next part of a joined layer."""
        index = self._parts_used.get(module, 0)
        self._parts_used[module] = index + 1
        start = sum(module.widths[:index])
        self._linear(official, module, (start, start + module.widths[index]), weight, bias)

    def transposed(self, official: str, module: nn.Linear) -> None:
        """Map ``official``.W, stored as (in, out), and ``official``.b to a linear layer."""
        self._linear(official, module, (0, module.out_features), "W", "b")

    def _linear(
        self, official: str, module: nn.Linear, rows: tuple[int, int], weight: str, bias: str
    ) -> None:
        key = self.names[module]
        self.layout[f"{official}.{weight}"] = Destination(f"{key}.weight", *rows, weight == "W")
        self.layout[f"{official}.{bias}"] = Destination(f"{key}.bias", *rows)


def _modules_in_order(generator: NCSNpp) -> Iterator[nn.Module]:
    """The parts of the generator that the release numbers, after the stem, in its order."""
    numbered = (ResBlock, Attention, InputPyramid)
    for level in generator.down:
        for pair in zip(level.blocks, level.attentions, strict=True):
            yield from (m for m in pair if isinstance(m, numbered))
        yield from (m for m in (level.downsample, level.pyramid) if m is not None)
    yield from generator.mid.children()
    for level in generator.up:
        modules = (*level.blocks, level.attention, level.upsample)
        yield from (m for m in modules if isinstance(m, numbered))
    yield generator.out_norm
    yield generator.out_conv


def _add_block(builder: _LayoutBuilder, name: str, block: ResBlock, generator: NCSNpp) -> None:
    for i, norm in enumerate((block.norm1, block.norm2)):
        if norm.adaptive:
            builder.part(f"{name}.GroupNorm_{i}.style", generator.style_projection)
        else:
            builder.whole(f"{name}.GroupNorm_{i}", norm)
    builder.part(f"{name}.Dense_0", generator.time_projection)
    builder.whole(f"{name}.Conv_0", block.conv1)
    builder.whole(f"{name}.Conv_1", block.conv2)
    if block.shortcut is not None:
        builder.whole(f"{name}.Conv_2", block.shortcut)


def generator_layout(generator: NCSNpp) -> Layout:
    """The place in ``generator`` of every tensor of the release's generator."""
    builder = _LayoutBuilder(generator)
    builder.whole("all_modules.0", generator.time_embedding.layer1)
    builder.whole("all_modules.1", generator.time_embedding.layer2)
    builder.whole("all_modules.2", generator.stem)
    for index, module in zip(count(3), _modules_in_order(generator)):
        name = f"all_modules.{index}"
        if isinstance(module, ResBlock):
            _add_block(builder, name, module, generator)
        elif isinstance(module, Attention):
            builder.whole(f"{name}.GroupNorm_0", module.norm)
            for i in range(3):
                builder.part(f"{name}.NIN_{i}", module.qkv, "W", "b")
            builder.transposed(f"{name}.NIN_3", module.out)
        elif isinstance(module, InputPyramid):
            builder.whole(f"{name}.Conv2d_0", module.downsample.conv)
        else:
            builder.whole(name, module)
    if generator.mapping is not None:
        # The even positions of the release's mapping network have no weights.
        for i, layer in enumerate(generator.mapping.layers):
            builder.whole(f"z_transform.{2 * i + 1}", layer)
    return builder.layout


def discriminator_layout(discriminator: TimeDependentDiscriminator) -> Layout:
    """The place in ``discriminator`` of every tensor of the release's discriminator."""
    builder = _LayoutBuilder(discriminator)
    builder.whole("t_embed.main.0", discriminator.time_embedding.layer1)
    builder.whole("t_embed.main.2", discriminator.time_embedding.layer2)
    builder.whole("start_conv", discriminator.stem)
    for i, block in enumerate(discriminator.blocks, start=1):
        builder.whole(f"conv{i}.conv1.0", block.conv1)
        builder.whole(f"conv{i}.conv2.0", block.conv2)
        builder.part(f"conv{i}.dense_t1", discriminator.time_projection)
        builder.whole(f"conv{i}.skip.0", block.shortcut)
    if discriminator.head_conv is not None:
        builder.whole("final_conv", discriminator.head_conv)
    builder.whole("end_linear", discriminator.head)
    return builder.layout


# Converting weights.


def convert_generator(state: State, generator: nn.Module) -> dict[str, Tensor]:
    """The state of ``generator`` from an official one, with or without 'module.' prefix.

    Every official tensor is used exactly once. Raises CheckpointError for another architecture,
    naming the first tensor that differs.
    """
    if not isinstance(generator, NCSNpp):
        raise CheckpointError(
            f"the config's generator is {type(generator).__name__}; expected NCSNpp"
        )
    return _convert(state, generator_layout(generator), generator)


def convert_discriminator(state: State, discriminator: nn.Module) -> dict[str, Tensor]:
    """The state of ``discriminator`` from an official one, like ``convert_generator``."""
    if not isinstance(discriminator, TimeDependentDiscriminator):
        raise CheckpointError(
            f"the config's discriminator is {type(discriminator).__name__}; expected "
            "TimeDependentDiscriminator"
        )
    return _convert(state, discriminator_layout(discriminator), discriminator)


def _convert(state: State, layout: Layout, network: nn.Module) -> dict[str, Tensor]:
    state = without_prefix(state)
    ours = network.state_dict()
    _check_fit(state, layout, ours, type(network).__name__)
    converted = {key: torch.empty(tensor.shape, dtype=tensor.dtype) for key, tensor in ours.items()}
    for name, place in layout.items():
        tensor = state[name]
        converted[place.key][place.start : place.stop] = tensor.T if place.transposed else tensor
    return converted


def without_prefix(state: State) -> dict[str, Tensor]:
    """``state`` without the 'module.' that distributed training puts before each name."""
    prefix = "module."
    if state and all(name.startswith(prefix) for name in state):
        return {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return dict(state)


def _check_fit(state: State, layout: Layout, ours: State, network: str) -> None:
    problems = []
    for name, place in layout.items():
        expected = place.official_shape(ours[place.key])
        if name in state and tuple(state[name].shape) != expected:
            problems.append(
                f"{name} is {tuple(state[name].shape)} in the file but {expected} in the config"
            )
            break
    for description, names in (
        ("missing from the file", [n for n in layout if n not in state]),
        ("in the file but not in the config", [n for n in state if n not in layout]),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{', '.join(names[:3])}{more} {description}")
    if problems:
        raise CheckpointError(
            f"the official weights do not fit the config's {network}: {'; '.join(problems)}. "
            "Use the config that they were trained with."
        )


# Reading the release's files.


@dataclass
class OfficialFile:
    """The content of a release file: weights by official name, and how far training was."""

    generator_ema: dict[str, Tensor]
    generator: dict[str, Tensor] | None = None
    discriminator: dict[str, Tensor] | None = None
    info: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def read_official(path: str | Path) -> OfficialFile:
    """Read a ``netG_*.pth`` or ``content.pth``; no code in the file runs.

    Raises CheckpointError for a file that is missing, damaged or of another form, or that holds
    anything but tensors, plain values and the release's argument namespace.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a netG_*.pth or content.pth")
    check_not_a_page(path)
    with path.open("rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if is_archive:  # else a file of torch < 1.6, which is not compressed
        check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was refused: it is damaged, or not a file of the release ({refusal(error)})"
        ) from None
    # torch raises nearly anything on damaged files, IndexError and AssertionError for instance.
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read; is it complete? ({refusal(error)})"
        ) from None
    info = {"source": f"official DDGAN release, {path.name}"}
    if _is_state(content):
        _check_finite(path, content)
        epoch = re.fullmatch(r"netG_(\d+)", path.stem)
        return OfficialFile(content, info=info | ({"epoch": epoch[1]} if epoch else {}))
    if isinstance(content, dict) and _is_state(content.get("netG_dict")):
        try:
            file = _read_content(content, info, path)
            for state in (file.generator_ema, file.generator, file.discriminator):
                _check_finite(path, state or {})
            return file
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} has netG_dict, but is otherwise not of the release's form ({error!r})"
            ) from error
    raise CheckpointError(
        f"{path} holds neither a generator's tensors (netG_*.pth) nor netG_dict (content.pth)"
    )


def _check_finite(path: Path, state: State) -> None:
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{path}: {name} has values that are not finite; the file is of a training that "
                "diverged, or damaged"
            )


def _is_state(value: Any) -> bool:
    # A tensor of another device has no values, and one of another layout not those of a network.
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(t, Tensor) for key, t in value.items())
        and all(t.device.type == "cpu" and t.layout == torch.strided for t in value.values())
    )


def _read_content(content: dict[str, Any], info: dict[str, str], path: Path) -> OfficialFile:
    generator, discriminator = dict(content["netG_dict"]), content.get("netD_dict")
    if discriminator is not None and not _is_state(discriminator):
        raise TypeError("netD_dict does not hold tensors by name")
    file = OfficialFile(generator, generator, discriminator, info)
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
    """The averaged weights, which the release keeps per parameter in its optimizer.

    The parameters have the order of the state's names, since the network has no buffers.
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
    """The state of ``model`` for the networks in the file: a ``netG_*.pth`` has ``generator_ema``
    alone, a ``content.pth`` also ``generator`` and ``discriminator``.
    """
    parts = [("generator_ema", convert_generator(file.generator_ema, model.generator_ema))]
    if file.generator is not None:
        parts.append(("generator", convert_generator(file.generator, model.generator)))
    if file.discriminator is not None:
        converted = convert_discriminator(file.discriminator, model.discriminator)
        parts.append(("discriminator", converted))
    return {f"{part}.{key}": tensor for part, state in parts for key, tensor in state.items()}

"""Where each tensor of the published DDGAN release belongs in our networks.

The release numbers its generator's modules in the order of execution and keeps every small
projection as a layer of its own; here they have names and are joined. The correspondence is
derived from the structure of the network that is to receive the weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from torch import Tensor, nn

from ddgan.errors import CheckpointError
from ddgan.networks.blocks import InputResidual, InputSkip, OutputSkip, OutputStart, ResBlock
from ddgan.networks.discriminator import TimeDependentDiscriminator
from ddgan.networks.layers import Attention, SplitLinear
from ddgan.networks.ncsnpp import NCSNpp


@dataclass(frozen=True)
class Slot:
    """Where an official tensor goes: rows [start, stop) of our tensor ``key``."""

    key: str
    start: int
    stop: int
    transposed: bool = False

    def official_shape(self, ours: Tensor) -> tuple[int, ...]:
        """Return the shape that the official tensor must have."""
        shape = (self.stop - self.start, *ours.shape[1:])
        return shape[::-1] if self.transposed else shape


class _SlotWriter:
    """Collects slots by official name, finding our names from the modules."""

    def __init__(self, root: nn.Module):
        self.names = {module: name for name, module in root.named_modules()}
        self.slots: dict[str, Slot] = {}
        self._parts_used: dict[SplitLinear, int] = {}

    def whole(self, official: str, module: nn.Module) -> None:
        """Map ``official``'s parameters to all of a module's, which have the same names."""
        for name, parameter in module.named_parameters(recurse=False):
            key = f"{self.names[module]}.{name}"
            self.slots[f"{official}.{name}"] = Slot(key, 0, len(parameter))

    def part(self, official: str, module: SplitLinear, weight: str = "weight", bias: str = "bias"):
        """Map ``official``'s two tensors to the next part of a joined layer."""
        index = self._parts_used.get(module, 0)
        self._parts_used[module] = index + 1
        start = sum(module.widths[:index])
        stop = start + module.widths[index]
        key = self.names[module]
        # The release's weights named W are stored as (in, out).
        self.slots[f"{official}.{weight}"] = Slot(f"{key}.weight", start, stop, weight == "W")
        self.slots[f"{official}.{bias}"] = Slot(f"{key}.bias", start, stop)

    def transposed(self, official: str, module: nn.Linear) -> None:
        """Map ``official``.W, stored as (in, out), and ``official``.b to a linear layer."""
        key, rows = self.names[module], module.out_features
        self.slots[f"{official}.W"] = Slot(f"{key}.weight", 0, rows, transposed=True)
        self.slots[f"{official}.b"] = Slot(f"{key}.bias", 0, rows)


def _modules_in_order(generator: NCSNpp) -> Iterator[nn.Module]:
    """Yield the parts of the generator that the release numbers, after the stem, in its order."""
    for level in generator.down:
        for block, attention in zip(level.blocks, level.attentions, strict=True):
            yield block
            if isinstance(attention, Attention):
                yield attention
        yield from (m for m in (level.downsample, level.pyramid) if m is not None)
    yield from generator.mid.children()
    for level in generator.up:
        yield from level.blocks
        if isinstance(level.attention, Attention):
            yield level.attention
        if isinstance(level.pyramid, OutputStart | OutputSkip):
            yield level.pyramid.norm
            yield level.pyramid.conv
        if level.upsample is not None:
            yield level.upsample
    if generator.out_conv is not None:
        yield generator.out_norm
        yield generator.out_conv


def _write_block(writer: _SlotWriter, name: str, block: ResBlock, generator: NCSNpp) -> None:
    for i, norm in enumerate((block.norm1, block.norm2)):
        if norm.adaptive:
            writer.part(f"{name}.GroupNorm_{i}.style", generator.style_projection)
        else:
            writer.whole(f"{name}.GroupNorm_{i}", norm)
    writer.part(f"{name}.Dense_0", generator.time_projection)
    writer.whole(f"{name}.Conv_0", block.conv1)
    writer.whole(f"{name}.Conv_1", block.conv2)
    if block.shortcut is not None:
        writer.whole(f"{name}.Conv_2", block.shortcut)


def generator_slots(generator: NCSNpp) -> dict[str, Slot]:
    """Return, for every official tensor name, its place in ``generator``.

    Raises CheckpointError for networks that the release cannot have trained.
    """
    kinds = (generator.resblock_type, generator.time_embedding_type, generator.progressive)
    if kinds[0] == "ddpm" or kinds[1] == "fourier" or kinds[2] == "residual":
        raise CheckpointError(
            f"a generator with resblock_type={kinds[0]!r}, time_embedding={kinds[1]!r}, "
            f"progressive={kinds[2]!r} has no official weights: the release fails with 'ddpm', "
            "'fourier' and 'residual' there; use the config that the weights were trained with"
        )
    writer = _SlotWriter(generator)
    writer.whole("all_modules.0", generator.time_embedding.layer1)
    writer.whole("all_modules.1", generator.time_embedding.layer2)
    writer.whole("all_modules.2", generator.stem)
    for index, module in zip(count(3), _modules_in_order(generator)):
        name = f"all_modules.{index}"
        if isinstance(module, ResBlock):
            _write_block(writer, name, module, generator)
        elif isinstance(module, Attention):
            writer.whole(f"{name}.GroupNorm_0", module.norm)
            for i in range(3):
                writer.part(f"{name}.NIN_{i}", module.qkv, "W", "b")
            writer.transposed(f"{name}.NIN_3", module.out)
        elif isinstance(module, InputResidual):
            conv = module.downsample.conv
            writer.whole(f"{name}.{'Conv2d_0' if module.downsample.fir_kernel else 'Conv_0'}", conv)
        elif isinstance(module, InputSkip):
            writer.whole(f"{name}.Conv_0", module.conv)
        else:
            writer.whole(name, module)
    if generator.mapping is not None:
        # The even positions of the release's mapping network have no weights.
        for i, layer in enumerate(generator.mapping.layers):
            writer.whole(f"z_transform.{2 * i + 1}", layer)
    return writer.slots


def discriminator_slots(discriminator: TimeDependentDiscriminator) -> dict[str, Slot]:
    """Return, for every official tensor name, its place in ``discriminator``."""
    writer = _SlotWriter(discriminator)
    writer.whole("t_embed.main.0", discriminator.time_embedding.layer1)
    writer.whole("t_embed.main.2", discriminator.time_embedding.layer2)
    writer.whole("start_conv", discriminator.stem)
    for i, block in enumerate(discriminator.blocks, start=1):
        writer.whole(f"conv{i}.conv1.0", block.conv1)
        writer.whole(f"conv{i}.conv2.0", block.conv2)
        writer.part(f"conv{i}.dense_t1", discriminator.time_projection)
        writer.whole(f"conv{i}.skip.0", block.shortcut)
    if discriminator.head_conv is not None:
        writer.whole("final_conv", discriminator.head_conv)
    writer.whole("end_linear", discriminator.head)
    return writer.slots

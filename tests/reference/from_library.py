"""The plain implementation with the sizes and the weights of one of the library's models."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ddgan.models import DDGAN
from ddgan.networks import NCSNpp, TimeDependentDiscriminator
from ddgan.networks.blocks import InputPyramid, ResBlock
from ddgan.networks.layers import Attention

from . import plain


def trainer(model: DDGAN, optimizer: dict[str, dict]) -> plain.Trainer:
    """Return a plain trainer that begins where ``model`` is.

    ``optimizer`` has the arguments of Adam for ``generator`` and ``discriminator``.
    """
    like = model.diffusion.betas
    generator, average = (plain_generator(g) for g in (model.generator, model.generator_ema))
    discriminator = plain_discriminator(model.discriminator)
    return plain.Trainer(
        generator,
        average.requires_grad_(False),
        discriminator,
        plain.Process(model.diffusion.num_steps, like=like),
        torch.optim.Adam(generator.parameters(), **optimizer["generator"]),
        torch.optim.Adam(discriminator.parameters(), **optimizer["discriminator"]),
        model.r1_gamma,
        model.ema.decay,
    )


def plain_generator(ours: NCSNpp) -> plain.Generator:
    """Return the plain generator of the same structure with the same weights."""
    base = ours.stem.out_channels
    side = ours.data_shape[-1]
    attended = [
        side >> i
        for i, level in enumerate(ours.down)
        if any(isinstance(a, Attention) for a in level.attentions)
    ]
    theirs = plain.Generator(
        size=side,
        base=base,
        multipliers=tuple(level.blocks[-1].out_channels // base for level in ours.down),
        blocks=len(ours.down[0].blocks),
        attention=tuple(attended),
        latent_dim=ours.latent_dim,
        embedding_dim=ours.mapping.layers[0].out_features,
        mapping_layers=len(ours.mapping.layers) - 1,
        channels=ours.data_shape[0],
    ).to(ours.stem.weight)
    times, styles = (_parts(p) for p in (ours.time_projection, ours.style_projection))
    simple = [
        (theirs.time1, ours.time_embedding.layer1),
        (theirs.time2, ours.time_embedding.layer2),
        *zip(theirs.mapping, ours.mapping.layers, strict=True),
        (theirs.stem, ours.stem),
        (theirs.norm, ours.out_norm),
        (theirs.conv, ours.out_conv),
    ]
    for to, of in simple:
        _copy(to, of.weight, of.bias)
    layers = [*theirs.layers, *theirs.middle, *theirs.up_layers]
    for to, of in zip(layers, _in_order(ours), strict=True):
        if isinstance(of, Attention):
            _copy(to.norm, of.norm.weight, of.norm.bias)
            for part, values in zip((to.q, to.k, to.v), _parts(of.qkv), strict=True):
                _copy(part, *values)
            _copy(to.out, of.out.weight, of.out.bias)
        elif isinstance(of, InputPyramid):
            _copy(to.conv, of.downsample.conv.weight, of.downsample.conv.bias)
        else:
            _copy_block(to, of, next(times))
            _copy(to.norm1.style, *next(styles))
            _copy(to.norm2.style, *next(styles))
    return theirs


def plain_discriminator(ours: TimeDependentDiscriminator) -> plain.Discriminator:
    """Return the plain discriminator of the same structure with the same weights."""
    theirs = plain.Discriminator(
        ours.stem.out_channels,
        [(block.out_channels, block.fir_kernel is not None) for block in ours.blocks],
        ours.time_embedding.layer1.out_features,
        ours.in_channels // 2,
        ours.stddev_group,
    ).to(ours.stem.weight)
    _copy(theirs.time1, ours.time_embedding.layer1.weight, ours.time_embedding.layer1.bias)
    _copy(theirs.time2, ours.time_embedding.layer2.weight, ours.time_embedding.layer2.bias)
    for name in ("stem", "head"):
        _copy(getattr(theirs, name), getattr(ours, name).weight, getattr(ours, name).bias)
    _copy(theirs.conv, ours.head_conv.weight, ours.head_conv.bias)
    times = _parts(ours.time_projection)
    for to, of in zip(theirs.blocks, ours.blocks, strict=True):
        _copy_block(to, of, next(times))
    return theirs


def _in_order(generator: NCSNpp) -> list[nn.Module]:
    kinds = (ResBlock, Attention, InputPyramid)
    modules = []
    for level in generator.down:
        for pair in zip(level.blocks, level.attentions, strict=True):
            modules += pair
        modules += [level.downsample, level.pyramid]
    modules += generator.mid.children()
    for level in generator.up:
        modules += [*level.blocks, level.attention, level.upsample]
    return [module for module in modules if isinstance(module, kinds)]


def _parts(joined) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(joined.weight.split(joined.widths), joined.bias.split(joined.widths), strict=True)


@torch.no_grad()
def _copy(to: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    to.weight.copy_(weight)
    if bias is not None:
        to.bias.copy_(bias)


def _copy_block(to: nn.Module, of: nn.Module, time: tuple[Tensor, Tensor]) -> None:
    _copy(to.conv1, of.conv1.weight, of.conv1.bias)
    _copy(to.conv2, of.conv2.weight, of.conv2.bias)
    _copy(to.time, *time)
    if of.shortcut is not None:
        _copy(to.shortcut, of.shortcut.weight, of.shortcut.bias)

"""The levels of NCSN++: what happens at one resolution on the way down, at the bottom and up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddgan.networks.blocks import (
    Downsample,
    FirKernel,
    InputResidual,
    InputSkip,
    OutputResidual,
    OutputSkip,
    OutputStart,
    ResBlock,
    Upsample,
)
from ddgan.networks.layers import Attention

# What a residual block takes beside its input: projected time, style of norm 1, style of norm 2.
Condition = tuple[Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Parts:
    """Builds the parts of a generator that share its options."""

    image_channels: int
    resblock_type: str
    adaptive: tuple[bool, bool]
    fir_kernel: FirKernel
    resample_with_conv: bool
    dropout: float
    residual_gain: float

    def block(self, in_channels: int, out_channels: int, resample: str | None = None) -> ResBlock:
        """Return a residual block; ``resample`` is "up", "down" or None."""
        return ResBlock(
            in_channels,
            out_channels,
            resample=resample,
            adaptive=self.adaptive,
            fir_kernel=self.fir_kernel,
            dropout=self.dropout,
            residual_gain=self.residual_gain,
            # The 1x1 shortcut of the DDPM block is initialised like the attention's layers.
            shortcut_scale=0.1 if self.resblock_type == "ddpm" else 1.0,
        )

    def attention(self, channels: int, wanted: bool = True) -> nn.Module:
        """Return an attention block, or the identity where none is wanted."""
        return Attention(channels, self.residual_gain) if wanted else nn.Identity()

    def resample(self, channels: int, direction: str) -> ResBlock | Downsample | Upsample:
        """Return what changes the resolution, "up" or "down", between two levels."""
        if self.resblock_type != "ddpm":
            return self.block(channels, channels, direction)
        kind = Upsample if direction == "up" else Downsample
        return kind(
            channels, channels, with_conv=self.resample_with_conv, fir_kernel=self.fir_kernel
        )

    def input_pyramid(
        self, kind: str, combine: str, pyramid_channels: int, channels: int
    ) -> InputSkip | InputResidual | None:
        """Return the link of the input pyramid below a level, if ``kind`` has one."""
        if kind == "input_skip":
            return InputSkip(self.image_channels, channels, combine, self.fir_kernel)
        if kind == "residual":
            return InputResidual(pyramid_channels, channels, self.residual_gain, self.fir_kernel)
        return None

    def output_pyramid(
        self, kind: str, pyramid_channels: int | None, channels: int
    ) -> OutputStart | OutputSkip | OutputResidual | None:
        """Return a level's link of the output pyramid; the deepest has no ``pyramid_channels``."""
        if kind == "none":
            return None
        if pyramid_channels is None:
            if kind == "output_skip":
                return OutputStart(channels, self.image_channels, scale=0.0)
            return OutputStart(channels, channels, scale=1.0)
        if kind == "output_skip":
            return OutputSkip(channels, self.image_channels, self.fir_kernel)
        return OutputResidual(pyramid_channels, channels, self.residual_gain, self.fir_kernel)


def _resample(
    layer: ResBlock | Downsample | Upsample, h: Tensor, conditions: Iterator[Condition]
) -> Tensor:
    return layer(h, *next(conditions)) if isinstance(layer, ResBlock) else layer(h)


class DownLevel(nn.Module):
    """Residual blocks of one resolution, then (but at the deepest level) a downsampling."""

    def __init__(
        self,
        blocks: Sequence[ResBlock],
        attentions: Sequence[nn.Module],
        downsample: ResBlock | Downsample | None,
        pyramid: InputSkip | InputResidual | None,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.downsample = downsample
        self.pyramid = pyramid

    def forward(
        self, h: Tensor, pyramid: Tensor, conditions: Iterator[Condition]
    ) -> tuple[list[Tensor], Tensor]:
        """Return the features for the way up, of which the last is the output, and the pyramid."""
        skips = []
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h, *next(conditions)))
            skips.append(h)
        if self.downsample is not None:
            h = _resample(self.downsample, h, conditions)
            if self.pyramid is not None:
                h, pyramid = self.pyramid(h, pyramid)
            skips.append(h)
        return skips, pyramid


class UpLevel(nn.Module):
    """Residual blocks on the skips of one resolution, then (but at the top) an upsampling."""

    def __init__(
        self,
        blocks: Sequence[ResBlock],
        attention: nn.Module,
        pyramid: OutputStart | OutputSkip | OutputResidual | None,
        upsample: ResBlock | Upsample | None,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention
        self.pyramid = pyramid
        self.upsample = upsample

    def forward(
        self,
        h: Tensor,
        skips: list[Tensor],
        pyramid: Tensor | None,
        conditions: Iterator[Condition],
    ) -> tuple[Tensor, Tensor | None]:
        """Return features and output pyramid, having popped the used skips off their list."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), *next(conditions))
        h = self.attention(h)
        if self.pyramid is not None:
            h, pyramid = self.pyramid(h, pyramid)
        if self.upsample is not None:
            h = _resample(self.upsample, h, conditions)
        return h, pyramid


class MidLevel(nn.Module):
    """Residual block, attention, residual block at the deepest resolution."""

    def __init__(self, block1: ResBlock, attention: Attention, block2: ResBlock):
        super().__init__()
        self.block1 = block1
        self.attention = attention
        self.block2 = block2

    def forward(self, h: Tensor, conditions: Iterator[Condition]) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        h = self.attention(self.block1(h, *next(conditions)))
        return self.block2(h, *next(conditions))

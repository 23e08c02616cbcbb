"""Building blocks of NCSN++: the residual block, the input pyramid and the levels of the U-net."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddgan.networks.layers import Attention, Checkpointed, GroupNorm, conv2d, scaled_sum
from ddgan.ops import conv_downsample2d, downsample2d, same_conv2d, upsample2d

RESIDUAL_GAIN = 0.5**0.5  # keeps the variance of a sum of two branches

# What conditions a residual block: the projected time and, with a latent, the norms' two styles.
Condition = tuple[Tensor, Tensor | None, Tensor | None]


class ResBlock(Checkpointed):
    """Residual block of BigGAN, conditioned on time and w; ``resample`` doubles or halves the size.

    Norm, SiLU, resampling, convolution, time bias, norm, SiLU, dropout, convolution. The network
    projects the time biases and the styles of all its blocks at once. ``adaptive`` norms take a
    style; others have weights of their own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        resample: Literal["up", "down"] | None = None,
        adaptive: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.out_channels = out_channels
        self.dropout = dropout
        self.norm1 = GroupNorm(in_channels, adaptive=adaptive)
        self.conv1 = conv2d(in_channels, out_channels, 3)
        self.norm2 = GroupNorm(out_channels, adaptive=adaptive)
        self.conv2 = conv2d(out_channels, out_channels, 3, scale=0.0)
        self.resample = {"up": upsample2d, "down": downsample2d, None: None}[resample]
        self.shortcut = None
        if in_channels != out_channels or resample is not None:
            self.shortcut = conv2d(in_channels, out_channels, 1)

    def forward(
        self, x: Tensor, time: Tensor, style1: Tensor | None = None, style2: Tensor | None = None
    ) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'), with ``time`` (N, C_out) or (1, C_out)."""
        return self.checkpointed(self._forward, x, time, style1, style2)

    def _forward(
        self, x: Tensor, time: Tensor, style1: Tensor | None, style2: Tensor | None
    ) -> Tensor:
        h = self.norm1(x, style1)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        if time.shape[0] == 1:  # then it is a part of the convolution's bias
            bias = self.conv1.bias + time[0]  # type: ignore[operator]
            h = same_conv2d(h, self.conv1.weight, bias)
        else:
            h = self.conv1(h).add_(time[:, :, None, None])
        h = F.dropout(self.norm2(h, style2), self.dropout, self.training)
        h = self.conv2(h)
        if self.shortcut is not None:
            x = self.shortcut(x)
        return scaled_sum(x, h, RESIDUAL_GAIN)


class Downsample(nn.Module):
    """Halve (N, C_in, H, W) into (N, C_out, H/2, W/2): FIR filter, then a strided convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = conv2d(in_channels, out_channels, 3, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """Filter and convolve."""
        return conv_downsample2d(x, self.conv.weight, self.conv.bias)


class InputPyramid(nn.Module):
    """Add the downsampled input to the features; the sum is the pyramid of the next level."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.downsample = Downsample(in_channels, channels)

    def forward(self, h: Tensor, pyramid: Tensor) -> Tensor:
        """Map (N, C, H/2, W/2) features and the (N, C_in, H, W) pyramid to new features."""
        return scaled_sum(h, self.downsample(pyramid), RESIDUAL_GAIN)


def _attention(channels: int, wanted: bool) -> nn.Module:
    return Attention(channels, RESIDUAL_GAIN) if wanted else nn.Identity()


class DownLevel(nn.Module):
    """Residual blocks of one resolution, then a downsampling except at the deepest level.

    ``block`` builds residual blocks. ``pyramid_channels`` are those of the input pyramid, or None
    at the deepest level.
    """

    def __init__(
        self,
        block: Callable[..., ResBlock],
        in_channels: int,
        channels: int,
        num_blocks: int,
        attention: bool,
        pyramid_channels: int | None,
    ):
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        for _ in range(num_blocks):
            self.blocks.append(block(in_channels, channels))
            self.attentions.append(_attention(channels, attention))
            in_channels = channels
        self.downsample = self.pyramid = None
        if pyramid_channels is not None:
            self.downsample = block(channels, channels, resample="down")
            self.pyramid = InputPyramid(pyramid_channels, channels)

    def forward(
        self, h: Tensor, pyramid: Tensor, conditions: Iterator[Condition]
    ) -> tuple[list[Tensor], Tensor]:
        """The features for the way up, the last being the output, and the pyramid."""
        skips = []
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            h = attention(block(h, *next(conditions)))
            skips.append(h)
        if self.downsample is not None:
            h = self.downsample(h, *next(conditions))
            h = pyramid = self.pyramid(h, pyramid)  # type: ignore[misc]
            skips.append(h)
        return skips, pyramid


class MidLevel(nn.Module):
    """Residual block, attention, residual block at the deepest resolution."""

    def __init__(self, block: Callable[..., ResBlock], channels: int):
        super().__init__()
        self.block1 = block(channels, channels)
        self.attention = _attention(channels, wanted=True)
        self.block2 = block(channels, channels)

    def forward(self, h: Tensor, conditions: Iterator[Condition]) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        h = self.attention(self.block1(h, *next(conditions)))
        return self.block2(h, *next(conditions))


class UpLevel(nn.Module):
    """Residual blocks on the skips of one resolution, then an upsampling except at the top."""

    def __init__(
        self,
        block: Callable[..., ResBlock],
        in_channels: int,
        skip_channels: list[int],
        channels: int,
        attention: bool,
        upsample: bool,
    ):
        super().__init__()
        self.blocks = nn.ModuleList()
        for skip in skip_channels:
            self.blocks.append(block(in_channels + skip, channels))
            in_channels = channels
        self.attention = _attention(channels, attention)
        self.upsample = block(channels, channels, resample="up") if upsample else None

    def forward(self, h: Tensor, skips: list[Tensor], conditions: Iterator[Condition]) -> Tensor:
        """The features, (N, C, H', W'); the skips that are used are popped off the list."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), *next(conditions))
        h = self.attention(h)
        return h if self.upsample is None else self.upsample(h, *next(conditions))

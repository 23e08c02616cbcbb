"""Building blocks of NCSN++: residual blocks, resampling and the input and output pyramids."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddgan.networks.layers import Checkpointed, GroupNorm, conv2d, scaled_sum
from ddgan.ops import conv_downsample2d, downsample2d, same_conv2d, upsample2d

FirKernel = tuple[float, ...] | None


class Downsample(nn.Module):
    """Halve a feature map: FIR filter or 2x2 mean, or, with a convolution, a strided one.

    ``fir_kernel`` None means no filter.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, with_conv: bool, fir_kernel: FirKernel
    ):
        super().__init__()
        self.fir_kernel = fir_kernel
        self.conv = conv2d(in_channels, out_channels, 3, stride=2, padding=0) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H/2, W/2)."""
        if self.conv is None:
            return F.avg_pool2d(x, 2) if not self.fir_kernel else downsample2d(x, self.fir_kernel)
        if self.fir_kernel:
            return conv_downsample2d(x, self.conv.weight, self.conv.bias, self.fir_kernel)
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double a feature map by FIR filter or nearest neighbour, then optionally convolve."""

    def __init__(
        self, in_channels: int, out_channels: int, *, with_conv: bool, fir_kernel: FirKernel
    ):
        super().__init__()
        self.fir_kernel = fir_kernel
        self.conv = conv2d(in_channels, out_channels, 3) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, 2 H, 2 W)."""
        x = upsample2d(x, self.fir_kernel) if self.fir_kernel else F.interpolate(x, scale_factor=2)
        return x if self.conv is None else self.conv(x)


class ResBlock(Checkpointed):
    """Residual block of BigGAN (with ``resample``) or DDPM (without), conditioned on time and w.

    Norm, SiLU, resampling, convolution, time bias, norm, SiLU, dropout, convolution. The time bias
    and the styles of the adaptive norms come projected from the network, which computes those of
    all its blocks at once. ``adaptive`` says which of the two norms take a style.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        resample: Literal["up", "down"] | None = None,
        adaptive: tuple[bool, bool] = (True, True),
        fir_kernel: FirKernel = (1, 3, 3, 1),
        dropout: float = 0.0,
        residual_gain: float = 1.0,
        shortcut_scale: float = 1.0,
    ):
        super().__init__()
        self.out_channels = out_channels
        self.dropout = dropout
        self.residual_gain = residual_gain
        self.norm1 = GroupNorm(in_channels, adaptive=adaptive[0])
        self.conv1 = conv2d(in_channels, out_channels, 3)
        self.norm2 = GroupNorm(out_channels, adaptive=adaptive[1])
        self.conv2 = conv2d(out_channels, out_channels, 3, scale=0.0)
        self.resample = self.shortcut = None
        if resample is not None:
            kind = Upsample if resample == "up" else Downsample
            self.resample = kind(in_channels, in_channels, with_conv=False, fir_kernel=fir_kernel)
        if in_channels != out_channels or resample is not None:
            self.shortcut = conv2d(in_channels, out_channels, 1, scale=shortcut_scale)

    @property
    def style_widths(self) -> list[int]:
        """Sizes of the styles that the adaptive norms need, in order."""
        return [2 * norm.channels for norm in (self.norm1, self.norm2) if norm.adaptive]

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
        if len(time) == 1:  # then it is a part of the convolution's bias
            bias = self.conv1.bias + time[0]
            h = same_conv2d(h, self.conv1.weight, bias)
        else:
            h = self.conv1(h).add_(time[:, :, None, None])
        h = F.dropout(self.norm2(h, style2), self.dropout, self.training)
        h = self.conv2(h)
        if self.shortcut is not None:
            x = self.shortcut(x)
        return scaled_sum(x, h, self.residual_gain)


class InputSkip(nn.Module):
    """Combine the downsampled input with the features: ``sum`` adds, ``cat`` concatenates."""

    def __init__(self, in_channels: int, channels: int, combine: str, fir_kernel: FirKernel):
        super().__init__()
        self.combine = combine
        self.downsample = Downsample(
            in_channels, in_channels, with_conv=False, fir_kernel=fir_kernel
        )
        self.conv = conv2d(in_channels, channels, 1)

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new features and the downsampled input."""
        pyramid = self.downsample(pyramid)
        skip = self.conv(pyramid)
        return (skip + h if self.combine == "sum" else torch.cat([skip, h], dim=1)), pyramid


class InputResidual(nn.Module):
    """Add a convolved, downsampled pyramid to the features; the sum is the next pyramid."""

    def __init__(
        self, in_channels: int, channels: int, residual_gain: float, fir_kernel: FirKernel
    ):
        super().__init__()
        self.residual_gain = residual_gain
        self.downsample = Downsample(in_channels, channels, with_conv=True, fir_kernel=fir_kernel)

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new features, which are also the new pyramid."""
        h = scaled_sum(h, self.downsample(pyramid), self.residual_gain)
        return h, h


class OutputStart(nn.Module):
    """Start an output pyramid at the deepest level: norm, SiLU, convolution."""

    def __init__(self, in_channels: int, out_channels: int, scale: float):
        super().__init__()
        self.norm = GroupNorm(in_channels)
        self.conv = conv2d(in_channels, out_channels, 3, scale=scale)

    def forward(self, h: Tensor, pyramid: None) -> tuple[Tensor, Tensor]:
        """Return the features as they are and the first pyramid."""
        return h, self.conv(self.norm(h))


class OutputSkip(nn.Module):
    """Add this level's image to the upsampled image of the level below."""

    def __init__(self, in_channels: int, out_channels: int, fir_kernel: FirKernel):
        super().__init__()
        self.norm = GroupNorm(in_channels)
        self.conv = conv2d(in_channels, out_channels, 3, scale=0.0)
        self.upsample = Upsample(out_channels, out_channels, with_conv=False, fir_kernel=fir_kernel)

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features as they are and the new image."""
        return h, self.upsample(pyramid) + self.conv(self.norm(h))


class OutputResidual(nn.Module):
    """Add the convolved, upsampled pyramid to the features; the sum is the next pyramid."""

    def __init__(
        self, pyramid_channels: int, channels: int, residual_gain: float, fir_kernel: FirKernel
    ):
        super().__init__()
        self.residual_gain = residual_gain
        self.upsample = Upsample(pyramid_channels, channels, with_conv=True, fir_kernel=fir_kernel)

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new features, which are also the new pyramid."""
        h = scaled_sum(h, self.upsample(pyramid), self.residual_gain)
        return h, h

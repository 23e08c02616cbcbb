"""The synthesis network of StyleGAN2 (Karras et al., 2020, Section 2 and Figure 7)."""

from typing import Any

import torch
from torch import Tensor, nn

from ddgan.networks.stylegan2_layers import (
    FILTER,
    Architecture,
    EqualizedConv2d,
    ModulatedConv2d,
    Noise,
    NoiseInput,
    channel_counts,
    check_architecture,
)
from ddgan.ops import fused_bias_leaky_relu, upsample2d


def noise_shapes(image_size: int) -> list[tuple[int, int, int]]:
    """The shapes (1, H, W) of the noise of each layer: one at 4 x 4, two at each size on."""
    sizes = [4] + [2**k for k in range(3, image_size.bit_length()) for _ in range(2)]
    return [(1, size, size) for size in sizes]


class StyledLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        *,
        index: int,
        size: int,
        up: bool,
        use_noise: bool,
        clamp: float | None,
    ):
        super().__init__()
        self.clamp = clamp
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, w_dim, up=up)
        self.noise = NoiseInput(index, size) if use_noise else None
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor, noise: Noise) -> Tensor:
        """Map (N, C_in, H, W) and (N, w_dim) to (N, C_out, H', W')."""
        x = self.conv(x, w)
        if self.noise is not None:
            x = self.noise(x, noise)
        return fused_bias_leaky_relu(x, self.bias, clamp=self.clamp)


class ToImage(nn.Module):
    """Modulated 1x1 convolution without demodulation, from features to an image."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, clamp: float | None):
        super().__init__()
        self.clamp = clamp
        self.conv = ModulatedConv2d(in_channels, out_channels, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map (N, C_in, H, W) and (N, w_dim) to (N, C, H, W)."""
        x = self.conv(x, w)
        # A slope of 1 leaves bias and clamp alone.
        return fused_bias_leaky_relu(x, self.bias, negative_slope=1.0, gain=1, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """One doubling of the resolution: two styled layers, a residual and an image as asked."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        *,
        index: int,
        size: int,
        image_channels: int | None,
        residual: bool,
        use_noise: bool,
        clamp: float | None,
    ):
        super().__init__()
        common: dict[str, Any] = {
            "w_dim": w_dim,
            "size": size,
            "use_noise": use_noise,
            "clamp": clamp,
        }
        self.layer1 = StyledLayer(in_channels, out_channels, index=index, up=True, **common)
        self.layer2 = StyledLayer(out_channels, out_channels, index=index + 1, up=False, **common)
        self.shortcut = (
            EqualizedConv2d(in_channels, out_channels, 1, bias=False, act=False)
            if residual
            else None
        )
        self.to_image = (
            ToImage(out_channels, image_channels, w_dim, clamp) if image_channels else None
        )

    def forward(
        self, x: Tensor, image: Tensor | None, ws: tuple[Tensor, ...], noise: Noise
    ) -> tuple[Tensor, Tensor | None]:
        """Map features and the image so far to those of twice the size, with three styles."""
        h = self.layer2(self.layer1(x, ws[0], noise), ws[1], noise)
        if self.shortcut is not None:
            # A 1x1 convolution commutes with the filter and is cheaper at the lower resolution.
            h = (h + upsample2d(self.shortcut(x), FILTER)) * 0.5**0.5
        if self.to_image is not None:
            new = self.to_image(h, ws[2])
            image = new if image is None else upsample2d(image, FILTER) + new
        return h, image


class Synthesis(nn.Module):
    """The synthesis network: styles (N, num_ws, w_dim) -> images (N, C, H, W)."""

    def __init__(
        self,
        image_size: int,
        image_channels: int,
        w_dim: int,
        *,
        architecture: Architecture,
        channel_base: int,
        max_channels: int,
        use_noise: bool,
        clamp: float | None,
    ):
        super().__init__()
        check_architecture(architecture)
        channels = channel_counts(image_size, channel_base, max_channels)
        first, skip = channels[4], architecture == "skip"
        self.const = nn.Parameter(torch.randn(first, 4, 4))
        self.layer = StyledLayer(
            first, first, w_dim, index=0, size=4, up=False, use_noise=use_noise, clamp=clamp
        )
        self.to_image = ToImage(first, image_channels, w_dim, clamp) if skip else None
        self.blocks = nn.ModuleList()
        for size, previous in zip(list(channels)[1:], channels.values(), strict=False):
            self.blocks.append(
                SynthesisBlock(
                    previous,
                    channels[size],
                    w_dim,
                    index=1 + 2 * len(self.blocks),
                    size=size,
                    image_channels=image_channels if skip or size == image_size else None,
                    residual=architecture == "residual",
                    use_noise=use_noise,
                    clamp=clamp,
                )
            )
        # One style per layer; an image shares the style of the next layer, the last has its own.
        self.num_ws = 2 + 2 * len(self.blocks)

    def forward(self, ws: Tensor, noise: Noise = "random") -> Tensor:
        """(N, C, H, W); ``noise`` is as for ``StyleGAN2Generator.forward``."""
        styles = ws.unbind(1)
        x = self.layer(self.const.expand(ws.shape[0], -1, -1, -1), styles[0], noise)
        image: Any = None if self.to_image is None else self.to_image(x, styles[1])
        for i, block in enumerate(self.blocks):
            x, image = block(x, image, styles[1 + 2 * i : 4 + 2 * i], noise)
        return image

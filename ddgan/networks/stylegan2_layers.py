"""The layers of StyleGAN2 (Karras et al., "Analyzing and improving …", 2020; and StyleGAN, 2019).

Weights are stored as standard normals and scaled when used (the equalised learning rate).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddgan.ops import conv_downsample2d, fused_bias_leaky_relu, same_conv2d, upfirdn2d

Architecture = Literal["orig", "skip", "residual"]
ARCHITECTURES = ("orig", "skip", "residual")

Noise = Literal["random", "const", "none"] | Sequence[Tensor]

FILTER = (1, 3, 3, 1)


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scale each row of (N, D) to a mean square of 1."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def channel_counts(image_size: int, channel_base: int, max_channels: int) -> dict[int, int]:
    """The channels of the feature maps at each resolution from 4 to ``image_size``.

    Raises ValueError for a size that is not a power of two from 8 to 1024.
    """
    if image_size not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(
            f"image_size is {image_size}; expected a power of two from 8 to 1024, as each block "
            "doubles the resolution; resize or crop the images"
        )
    if channel_base < image_size or max_channels < 1:
        raise ValueError(
            f"channel_base is {channel_base} and max_channels {max_channels}; expected at least "
            f"{image_size} and 1, so that every feature map has a channel"
        )
    sizes = [2**k for k in range(2, image_size.bit_length())]
    return {size: min(channel_base // size, max_channels) for size in sizes}


def check_architecture(architecture: str) -> None:
    """Raise ValueError for an unknown architecture."""
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture is {architecture!r}; expected one of {', '.join(ARCHITECTURES)}"
        )


class EqualizedLinear(nn.Module):
    """Linear layer with equalised learning rate, followed by leaky ReLU (gain √2) if ``act``.

    ``lr_multiplier`` slows learning down: the stored parameters are divided by it at the start.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        act: bool = False,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):
        super().__init__()
        self.act = act
        self.lr_multiplier = lr_multiplier
        self.gain = lr_multiplier / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_features) to (N, out_features)."""
        bias = self.bias * self.lr_multiplier
        if self.act:
            return fused_bias_leaky_relu(F.linear(x, self.weight * self.gain), bias)
        return F.linear(x, self.weight * self.gain, bias)


class EqualizedConv2d(nn.Module):
    """Convolution with equalised learning rate; leaky ReLU (gain √2) if ``act``.

    ``down`` filters with (1, 3, 3, 1) and halves the resolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        down: bool = False,
        bias: bool = True,
        act: bool = True,
        clamp: float | None = None,
    ):
        super().__init__()
        self.down, self.act, self.clamp = down, act, clamp
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W), or half of H and W."""
        weight = self.weight * self.gain
        bias = None if self.act else self.bias
        if self.down:
            x = conv_downsample2d(x, weight, bias, FILTER)
        else:
            x = same_conv2d(x, weight, bias)
        return fused_bias_leaky_relu(x, self.bias, clamp=self.clamp) if self.act else x


def modulated_conv2d(
    x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True, up: bool = False
) -> Tensor:
    """Convolve each sample with the weight scaled by its style (StyleGAN2, Eqs. 1 to 3).

    ``x`` is (N, C_in, H, W), ``weight`` (C_out, C_in, k, k) of odd k and ``style`` (N, C_in). The
    demodulated weights of each sample and output channel have norm 1. ``up`` doubles the
    resolution: transposed convolution, then the FIR filter; the weight then reads as flipped.
    """
    # A convolution is linear in each input channel, so scaling the weights' inputs and outputs is
    # scaling the activations. One convolution then serves the whole batch, where weights per
    # sample need one group each: N times the weight memory, and slow on the CPU.
    x = x * style.to(x.dtype)[:, :, None, None]
    if up:
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        pad = 2 - weight.shape[-1] // 2
        x = upfirdn2d(x, _NORMALIZED_FILTER, padding=pad, gain=4)
    else:
        x = same_conv2d(x, weight)
    if demodulate:
        x = x * _demodulation(weight, style).to(x.dtype)[:, :, None, None]
    return x


_NORMALIZED_FILTER = tuple(tap / sum(FILTER) for tap in FILTER)


def _demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """(N, C_out) reciprocal norms of the modulated weights."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    # Sums of squares do not fit half precision.
    with torch.autocast(weight.device.type, enabled=False):
        energy = weight.to(dtype).square().sum(dim=(2, 3))
        return torch.rsqrt(F.linear(style.to(dtype).square(), energy) + 1e-8)


class ModulatedConv2d(nn.Module):
    """Modulated convolution whose style is an affine function of w, initially around 1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        w_dim: int,
        *,
        demodulate: bool = True,
        up: bool = False,
    ):
        super().__init__()
        self.demodulate, self.up = demodulate, up
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map (N, C_in, H, W) and (N, w_dim) to (N, C_out, H', W')."""
        weight = self.weight * self.gain
        return modulated_conv2d(x, weight, self.affine(w), demodulate=self.demodulate, up=self.up)


class NoiseInput(nn.Module):
    """Noise per pixel, the same for all channels, of a learned strength that starts at 0."""

    const: Tensor

    def __init__(self, index: int, size: int):
        """Take the layer's number, which is that of its noise, and its resolution."""
        super().__init__()
        self.index = index
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("const", torch.randn(size, size))

    def forward(self, x: Tensor, noise: Noise) -> Tensor:
        """(N, C, H, W) plus noise: see ``StyleGAN2Generator.forward``."""
        if noise == "none":
            return x
        shape = (1, *x.shape[2:])
        if noise == "random":
            values = torch.randn((x.shape[0], *shape), device=x.device, dtype=x.dtype)
        elif noise == "const":
            values = self.const
        elif not isinstance(noise, str):
            values = noise[self.index]
        else:
            raise ValueError(
                f"noise is {noise!r}; expected 'random', 'const', 'none' or a tensor (N, 1, H, W) "
                "for each layer"
            )
        return x + (values * self.strength).to(x.dtype)


class StyleMapping(nn.Module):
    """The mapping network z -> w, or the identity with 0 layers (StyleGAN, Section 2)."""

    def __init__(
        self,
        in_features: int,
        w_dim: int,
        num_layers: int,
        *,
        lr_multiplier: float = 0.01,
        normalize: bool = True,
    ):
        super().__init__()
        if num_layers < 0 or (num_layers == 0 and in_features != w_dim):
            raise ValueError(
                f"the mapping has {num_layers} layers from {in_features} to {w_dim} features; "
                "expected at least one layer, or none between equal numbers"
            )
        self.normalize = normalize
        sizes = [in_features] + [w_dim] * num_layers
        self.layers = nn.Sequential(
            *(
                EqualizedLinear(a, w_dim, act=True, lr_multiplier=lr_multiplier)
                for a in sizes[:num_layers]
            )
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map (N, in_features) to (N, w_dim)."""
        # All of an image follows from a few numbers: they are not worth rounding.
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            return self.layers(normalize_2nd_moment(z) if self.normalize else z)

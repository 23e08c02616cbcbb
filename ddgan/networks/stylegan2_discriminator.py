"""The discriminator of StyleGAN2 (Karras et al., 2020, Figure 7), conditioned on a time or not."""

import math

from torch import Tensor, nn

from ddgan.networks.discriminator import minibatch_stddev
from ddgan.networks.layers import sinusoidal_embedding
from ddgan.networks.stylegan2_layers import (
    FILTER,
    Architecture,
    EqualizedConv2d,
    EqualizedLinear,
    StyleMapping,
    channel_counts,
    check_architecture,
)
from ddgan.ops import downsample2d
from ddgan.registry import MODELS

# The frequencies of the sinusoidal embedding are made for time steps up to about 1000.
TIME_SCALE = 1000


class TimeProjection(nn.Module):
    """The vectors with which the features are multiplied for a time t in [0, 1]."""

    def __init__(self, embedding_dim: int, dim: int, num_layers: int, lr_multiplier: float):
        super().__init__()
        if embedding_dim < 4 or embedding_dim % 2:
            raise ValueError(
                f"time_embedding_dim is {embedding_dim}; expected None or an even number of at "
                "least 4"
            )
        self.embedding_dim = embedding_dim
        # The bare number would be lost: a linear layer without bias and the normalisation after it
        # leave nothing of a scalar but its sign.
        self.embedding = EqualizedLinear(embedding_dim, dim)
        self.mapping = StyleMapping(dim, dim, num_layers, lr_multiplier=lr_multiplier)

    def forward(self, t: Tensor) -> Tensor:
        """Map (N,) to (N, dim)."""
        features = sinusoidal_embedding(TIME_SCALE * t.float(), self.embedding_dim)
        return self.mapping(self.embedding(features.to(self.embedding.weight.dtype)))


class DiscriminatorBlock(nn.Module):
    """Two convolutions that halve the resolution, with a shortcut if ``residual``."""

    def __init__(self, in_channels: int, out_channels: int, *, residual: bool, clamp: float | None):
        super().__init__()
        self.conv1 = EqualizedConv2d(in_channels, in_channels, 3, clamp=clamp)
        self.conv2 = EqualizedConv2d(in_channels, out_channels, 3, down=True, clamp=clamp)
        self.shortcut = (
            EqualizedConv2d(in_channels, out_channels, 1, bias=False, act=False)
            if residual
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H/2, W/2)."""
        h = self.conv2(self.conv1(x))
        if self.shortcut is None:
            return h
        return (h + self.shortcut(downsample2d(x, FILTER))) * 0.5**0.5


@MODELS.register_module()
class StyleGAN2Discriminator(nn.Module):
    """Logits of images being real, given their time if ``time_embedding_dim`` is not None.

    The time t in [0, 1] is embedded in sines and cosines, mapped by ``num_time_layers`` layers
    and projected on the features (Miyato and Koyama, 2018). Groups of the minibatch standard
    deviation have at most ``stddev_group`` samples. The other arguments are those of
    ``StyleGAN2Generator``. Raises ValueError for sizes that do not fit.
    """

    def __init__(
        self,
        image_size: int = 32,
        image_channels: int = 3,
        architecture: Architecture = "residual",
        channel_base: int = 32768,
        max_channels: int = 512,
        stddev_group: int = 4,
        time_embedding_dim: int | None = None,
        num_time_layers: int = 8,
        time_lr_multiplier: float = 0.01,
        clamp: float | None = None,
    ):
        super().__init__()
        check_architecture(architecture)
        if stddev_group < 1:
            raise ValueError(f"stddev_group is {stddev_group}; expected at least 1")
        self.data_shape = (image_channels, image_size, image_size)
        self.stddev_group = stddev_group
        self.skip = architecture == "skip"
        channels = channel_counts(image_size, channel_base, max_channels)
        sizes = list(reversed(channels))
        inputs = sizes if self.skip else sizes[:1]
        self.from_image = nn.ModuleList(
            EqualizedConv2d(image_channels, channels[size], 1, clamp=clamp) for size in inputs
        )
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(
                channels[size],
                channels[size // 2],
                residual=architecture == "residual",
                clamp=clamp,
            )
            for size in sizes[:-1]
        )
        last = channels[4]
        self.conv = EqualizedConv2d(last + 1, last, 3, clamp=clamp)
        self.linear = EqualizedLinear(last * 16, last, act=True)
        conditional = time_embedding_dim is not None
        self.head = EqualizedLinear(last, last if conditional else 1)
        self.time = (
            TimeProjection(time_embedding_dim, last, num_time_layers, time_lr_multiplier)
            if time_embedding_dim is not None
            else None
        )

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Logits (N, 1) for images (N, C, H, W) and, if conditional, times (N,) in [0, 1].

        Raises ValueError for shapes that do not fit.
        """
        self._check(x, t)
        h = self.from_image[0](x)
        image = x
        for i, block in enumerate(self.blocks):
            h = block(h)
            if self.skip:
                image = downsample2d(image, FILTER)
                h = h + self.from_image[i + 1](image)
        h = self.conv(minibatch_stddev(h, self.stddev_group))
        h = self.head(self.linear(h.flatten(1)))
        if self.time is not None:
            h = (h * self.time(t)).sum(dim=1, keepdim=True) / math.sqrt(h.shape[1])
        return h.to(x.dtype)

    def _check(self, x: Tensor, t: Tensor | None) -> None:
        if tuple(x.shape[1:]) != self.data_shape:
            expected = ", ".join(["N", *map(str, self.data_shape)])
            raise ValueError(f"x has shape {tuple(x.shape)}; expected ({expected})")
        if self.time is None:
            if t is not None:
                raise ValueError(
                    "t was given to a discriminator without time; pass t=None or build it with "
                    "time_embedding_dim"
                )
        elif t is None or t.shape != x.shape[:1] or not t.is_floating_point():
            got = "missing" if t is None else f"{t.dtype} of shape {tuple(t.shape)}"
            raise ValueError(f"t is {got}; expected ({x.shape[0]},) floats in [0, 1]")

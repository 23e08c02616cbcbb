"""The generator: NCSN++ conditioned on a latent variable (DDGAN, Appendix C.1)."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddgan.networks.blocks import Condition, DownLevel, MidLevel, ResBlock, UpLevel
from ddgan.networks.layers import (
    GroupNorm,
    MappingNetwork,
    SplitLinear,
    TimeEmbedding,
    check_latent,
    conv2d,
    set_options,
)
from ddgan.registry import MODELS


@MODELS.register_module()
class NCSNpp(nn.Module):
    """Predicts x_0 from x_t, the time and a latent z, by an NCSN++ U-net with AdaGN.

    ``image_size`` is a side or (height, width), divisible by 2 to the number of levels minus 1.
    Attention acts at the levels whose width is in ``attention_resolutions``, and in the middle.
    ``latent_dim=0`` gives plain group norms and no mapping network (Appendix C.4, "no latent").
    ``tanh`` bounds the output. ``channels_last`` lays feature maps out as (N, H, W, C), which GPUs
    prefer under mixed precision. ``checkpoint_activations`` recomputes the activations of the
    residual blocks in the backward pass instead of keeping them. Raises ValueError for a value or
    a combination that cannot be built.
    """

    memory_format: torch.memory_format

    def __init__(
        self,
        image_size: int | Sequence[int],
        in_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (16,),
        latent_dim: int = 100,
        embedding_dim: int = 256,
        num_mapping_layers: int = 3,
        dropout: float = 0.0,
        tanh: bool = True,
        channels_last: bool = False,
        checkpoint_activations: bool = False,
    ):
        super().__init__()
        height, width = _sides(image_size)
        _check_at_least(0, latent_dim=latent_dim, num_mapping_layers=num_mapping_layers)
        _check_at_least(
            1,
            in_channels=in_channels,
            num_res_blocks=num_res_blocks,
            channel_multipliers=min(channel_multipliers, default=1),
        )
        _check_image_size(height, width, len(channel_multipliers))
        if not 0 <= dropout < 1:
            raise ValueError(f"NCSNpp: dropout is {dropout}; expected a probability below 1")
        self.data_shape = (in_channels, height, width)
        self.latent_dim = latent_dim
        self.tanh = tanh

        level_channels = [base_channels * multiplier for multiplier in channel_multipliers]
        deepest = len(level_channels) - 1
        attended = [width >> level in attention_resolutions for level in range(deepest + 1)]
        block = partial(ResBlock, adaptive=latent_dim > 0, dropout=dropout)
        self.stem = conv2d(in_channels, base_channels, 3)
        channels, pyramid_channels, skips = base_channels, in_channels, [base_channels]
        self.down = nn.ModuleList()
        for level, out in enumerate(level_channels):
            pyramid = pyramid_channels if level < deepest else None
            down = DownLevel(block, channels, out, num_res_blocks, attended[level], pyramid)
            self.down.append(down)
            channels = pyramid_channels = out
            skips += [out] * (num_res_blocks + (level < deepest))
        self.mid = MidLevel(block, channels)
        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(level_channels))):
            used = [skips.pop() for _ in range(num_res_blocks + 1)]
            self.up.append(UpLevel(block, channels, used, out, attended[level], level > 0))
            channels = out
        self.out_norm = GroupNorm(channels)
        self.out_conv = conv2d(channels, in_channels, 3, scale=0.0)
        self._build_conditioning(base_channels, embedding_dim, num_mapping_layers)
        set_options(self, checkpoint_activations, channels_last)

    def _build_conditioning(self, time_dim: int, embedding_dim: int, num_layers: int) -> None:
        blocks = self.res_blocks()
        self.time_embedding = TimeEmbedding(time_dim, 4 * time_dim, nn.SiLU())
        self.time_projection = SplitLinear(4 * time_dim, [b.out_channels for b in blocks])
        self.mapping = self.style_projection = None
        if self.latent_dim > 0:
            self.mapping = MappingNetwork(self.latent_dim, embedding_dim, num_layers)
            widths = [2 * norm.channels for b in blocks for norm in (b.norm1, b.norm2)]
            self.style_projection = SplitLinear(embedding_dim, widths, fan="out")
            with torch.no_grad():
                for scale_and_shift in self.style_projection.bias.split(widths):
                    scale_and_shift[: len(scale_and_shift) // 2] = 1

    def res_blocks(self) -> list[ResBlock]:
        """The residual blocks in the order of execution."""
        return [m for m in self.modules() if isinstance(m, ResBlock)]

    def _conditions(self, t: Tensor, z: Tensor | None) -> Iterator[Condition]:
        if t.stride(0) == 0:  # one time for the whole batch
            t = t[:1]
        times = self.time_projection(F.silu(self.time_embedding(t)))
        if self.mapping is None:
            return iter([(time, None, None) for time in times])
        styles = self.style_projection(self.mapping(z))  # type: ignore[misc]
        return zip(times, styles[::2], styles[1::2], strict=True)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The prediction of x_0, (N, C, H, W) like ``x_t`` and in its dtype.

        ``t`` (N,) holds 0-based time indices; expanded from one number, as in sampling, it is
        embedded once. ``z`` (N, latent_dim) is from N(0, I), or None without a latent. Raises
        ValueError for other shapes.
        """
        _check_inputs(x_t, t, z, self.data_shape, self.latent_dim)
        conditions = self._conditions(t, z)
        pyramid = x_t.contiguous(memory_format=self.memory_format)
        skips = [self.stem(pyramid)]
        for down in self.down:
            features, pyramid = down(skips[-1], pyramid, conditions)
            skips.extend(features)
        h = self.mid(skips[-1], conditions)
        for up in self.up:
            h = up(h, skips, conditions)
        out = self.out_conv(self.out_norm(h))
        return (torch.tanh(out) if self.tanh else out).to(x_t.dtype)


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"NCSNpp: {name} is {value}; expected at least {least}")


def _sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2:
        raise ValueError(f"NCSNpp: image_size is {sides}; expected a side or (height, width)")
    return sides


def _check_image_size(height: int, width: int, num_levels: int) -> None:
    if num_levels < 1:
        raise ValueError("NCSNpp: channel_multipliers is empty; expected one per resolution level")
    divisor = 2 ** (num_levels - 1)
    if min(height, width) < 1 or height % divisor or width % divisor:
        raise ValueError(
            f"NCSNpp: image_size is {height}x{width}, but the {num_levels} levels of "
            f"channel_multipliers halve it {num_levels - 1} times; use a size divisible by "
            f"{divisor} or fewer levels"
        )


def _check_inputs(
    x_t: Tensor, t: Tensor, z: Tensor | None, data_shape: tuple[int, ...], latent_dim: int
) -> None:
    n = x_t.shape[0]
    if tuple(x_t.shape[1:]) != tuple(data_shape):
        raise ValueError(
            f"x_t has shape {tuple(x_t.shape)}; the generator was built for (N, "
            f"{', '.join(map(str, data_shape))}): use data of that size or change the config"
        )
    if t.shape != (n,):
        raise ValueError(f"t has shape {tuple(t.shape)}; expected ({n},), an index per sample")
    check_latent(z, n, latent_dim)

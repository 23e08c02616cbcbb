"""The generator: NCSN++ conditioned on a latent variable (DDGAN, Appendix C.1)."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddgan.networks.blocks import ResBlock
from ddgan.networks.layers import (
    FourierFeatures,
    GroupNorm,
    MappingNetwork,
    PositionalFeatures,
    SplitLinear,
    TimeEmbedding,
    check_latent,
    conv2d,
    set_options,
)
from ddgan.networks.levels import Condition, DownLevel, MidLevel, Parts, UpLevel
from ddgan.registry import MODELS

CHOICES = {
    "resblock_type": ("biggan", "biggan_one_adagn", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "time_embedding": ("positional", "fourier"),
}


@MODELS.register_module()
class NCSNpp(nn.Module):
    """Predict x_0 from x_t, the time and a latent z, by an NCSN++ U-net with AdaGN.

    ``image_size`` is a side or (height, width), divisible by 2 to the number of levels minus 1.
    Attention stands at the levels whose width is in ``attention_resolutions``, and in the middle.
    ``latent_dim=0`` gives plain group norms and no mapping network (Appendix C.5, "no latent").
    ``fir=False`` resamples by means and nearest neighbours. ``centered=False`` says that the input
    is in [0, 1]. ``channels_last`` lays feature maps out as (N, H, W, C), which GPUs prefer under
    mixed precision. ``checkpoint_activations`` computes the activations of the residual blocks
    again in the backward pass instead of keeping them. Raises ValueError for a value or a
    combination that cannot be built.
    """

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
        resblock_type: str = "biggan",
        progressive: str = "none",
        progressive_input: str = "residual",
        progressive_combine: str = "sum",
        fir: bool = True,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        resample_with_conv: bool = True,
        skip_rescale: bool = True,
        time_embedding: str = "positional",
        fourier_scale: float = 16.0,
        dropout: float = 0.0,
        tanh: bool = True,
        centered: bool = True,
        channels_last: bool = False,
        checkpoint_activations: bool = False,
    ):
        super().__init__()
        height, width = _sides(image_size)
        _check_choices(
            resblock_type=resblock_type,
            progressive=progressive,
            progressive_input=progressive_input,
            progressive_combine=progressive_combine,
            time_embedding=time_embedding,
        )
        _check_at_least(0, latent_dim=latent_dim, num_mapping_layers=num_mapping_layers)
        _check_at_least(
            1,
            in_channels=in_channels,
            num_res_blocks=num_res_blocks,
            channel_multipliers=min(channel_multipliers, default=1),
        )
        _check_image_size(height, width, len(channel_multipliers))
        if fir and not sum(fir_kernel) > 0:
            raise ValueError(
                f"NCSNpp: fir_kernel is {tuple(fir_kernel)}; expected taps with a positive sum, "
                "or fir=False for no filter"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"NCSNpp: dropout is {dropout}; expected a probability below 1")
        self.data_shape = (in_channels, height, width)
        self.latent_dim = latent_dim
        self.tanh = tanh
        self.centered = centered
        self.resblock_type = resblock_type
        self.progressive = progressive
        self.progressive_input = progressive_input
        self.progressive_combine = progressive_combine
        self.time_embedding_type = time_embedding

        parts = Parts(
            image_channels=in_channels,
            resblock_type=resblock_type,
            adaptive=(latent_dim > 0, latent_dim > 0 and resblock_type != "biggan_one_adagn"),
            fir_kernel=tuple(fir_kernel) if fir else None,
            resample_with_conv=resample_with_conv,
            dropout=dropout,
            residual_gain=0.5**0.5 if skip_rescale else 1.0,
        )
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        attended = [width >> level in attention_resolutions for level in range(len(widths))]
        self.stem = conv2d(in_channels, base_channels, 3)
        skips = self._build_down(parts, widths, attended, num_res_blocks)
        channels = skips[-1]
        self.mid = MidLevel(
            parts.block(channels, channels),
            parts.attention(channels),
            parts.block(channels, channels),
        )
        self._build_up(parts, widths, attended, num_res_blocks, skips)
        self.out_norm = self.out_conv = None
        if progressive != "output_skip":
            self.out_norm = GroupNorm(widths[0])
            self.out_conv = conv2d(widths[0], in_channels, 3, scale=0.0)
        features = (
            FourierFeatures(base_channels, fourier_scale)
            if time_embedding == "fourier"
            else PositionalFeatures(base_channels)
        )
        self._build_conditioning(features, 4 * base_channels, embedding_dim, num_mapping_layers)
        set_options(self, checkpoint_activations, channels_last)

    def _build_down(
        self, parts: Parts, widths: list[int], attended: list[bool], num_res_blocks: int
    ) -> list[int]:
        """Build the way down and return the channels of all the features it keeps."""
        self.down = nn.ModuleList()
        channels = self.stem.out_channels
        pyramid_channels = self.stem.in_channels
        skips = [channels]
        for level, width in enumerate(widths):
            blocks, attentions = [], []
            for _ in range(num_res_blocks):
                blocks.append(parts.block(channels, width))
                attentions.append(parts.attention(width, attended[level]))
                channels = width
                skips.append(channels)
            downsample = pyramid = None
            if level < len(widths) - 1:
                downsample = parts.resample(channels, "down")
                pyramid = parts.input_pyramid(
                    self.progressive_input, self.progressive_combine, pyramid_channels, channels
                )
                pyramid_channels = channels
                if self.progressive_input == "input_skip" and self.progressive_combine == "cat":
                    channels *= 2
                skips.append(channels)
            self.down.append(DownLevel(blocks, attentions, downsample, pyramid))
        return skips

    def _build_up(
        self,
        parts: Parts,
        widths: list[int],
        attended: list[bool],
        num_res_blocks: int,
        skips: list[int],
    ) -> None:
        self.up = nn.ModuleList()
        channels, pyramid_channels = skips[-1], None
        for level in reversed(range(len(widths))):
            blocks = []
            for _ in range(num_res_blocks + 1):
                blocks.append(parts.block(channels + skips.pop(), widths[level]))
                channels = widths[level]
            pyramid = parts.output_pyramid(self.progressive, pyramid_channels, channels)
            pyramid_channels = channels
            attention = parts.attention(channels, attended[level])
            upsample = parts.resample(channels, "up") if level else None
            self.up.append(UpLevel(blocks, attention, pyramid, upsample))

    def _build_conditioning(
        self,
        features: PositionalFeatures | FourierFeatures,
        time_dim: int,
        embedding_dim: int,
        num_mapping_layers: int,
    ) -> None:
        blocks = self.res_blocks()
        self.time_embedding = TimeEmbedding(features, time_dim, nn.SiLU())
        self.time_projection = SplitLinear(time_dim, [b.out_channels for b in blocks])
        self._styles_per_block = [len(b.style_widths) for b in blocks]
        self.mapping = self.style_projection = None
        if self.latent_dim > 0:
            self.mapping = MappingNetwork(self.latent_dim, embedding_dim, num_mapping_layers)
            widths = [width for block in blocks for width in block.style_widths]
            self.style_projection = SplitLinear(embedding_dim, widths, fan="out")
            with torch.no_grad():
                for scale_and_shift in self.style_projection.bias.split(widths):
                    scale_and_shift[: len(scale_and_shift) // 2] = 1

    def res_blocks(self) -> list[ResBlock]:
        """Return the residual blocks in the order of execution."""
        return [m for m in self.modules() if isinstance(m, ResBlock)]

    def _conditions(self, t: Tensor, z: Tensor | None) -> Iterator[Condition]:
        if t.stride(0) == 0:  # one time for the whole batch
            t = t[:1]
        times = self.time_projection(F.silu(self.time_embedding(t)))
        styles = iter(() if self.mapping is None else self.style_projection(self.mapping(z)))
        conditions = []
        for time, count in zip(times, self._styles_per_block, strict=True):
            style1 = next(styles) if count > 0 else None
            style2 = next(styles) if count > 1 else None
            conditions.append((time, style1, style2))
        return iter(conditions)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """Return the prediction of x_0, (N, C, H, W) like ``x_t`` and in its dtype.

        ``t`` (N,) holds 0-based time indices; expanded from one number, as in sampling, it is
        embedded once. ``z`` (N, latent_dim) is from N(0, I), or None without a latent. Raises
        ValueError for other shapes.
        """
        _check_inputs(x_t, t, z, self.data_shape, self.latent_dim)
        conditions = self._conditions(t, z)
        pyramid = x_t.contiguous(memory_format=self.memory_format)
        if not self.centered:
            pyramid = 2 * pyramid - 1
        skips = [self.stem(pyramid)]
        for down in self.down:
            features, pyramid = down(skips[-1], pyramid, conditions)
            skips.extend(features)
        h, pyramid = self.mid(skips[-1], conditions), None
        for up in self.up:
            h, pyramid = up(h, skips, pyramid, conditions)
        out = pyramid if self.out_conv is None else self.out_conv(self.out_norm(h))
        return (torch.tanh(out) if self.tanh else out).to(x_t.dtype)


def _check_choices(**chosen: str) -> None:
    for name, value in chosen.items():
        if value not in CHOICES[name]:
            raise ValueError(f"NCSNpp: {name} is {value!r}; expected one of {CHOICES[name]}")


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

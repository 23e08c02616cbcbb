"""The time-dependent discriminators D(x_{t-1}, t, x_t) (DDGAN, Appendix C.1 and Table 7)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddgan.networks.layers import (
    Checkpointed,
    SplitLinear,
    TimeEmbedding,
    conv2d,
    linear,
    scaled_sum,
    set_options,
)
from ddgan.ops import downsample2d, fused_bias_leaky_relu, same_conv2d
from ddgan.registry import MODELS

SLOPE = 0.2


def minibatch_stddev(x: Tensor, group_size: int = 4) -> Tensor:
    """Append to (N, C, H, W) a channel with the mean standard deviation within a group of samples.

    There are ceil(N / group_size) groups and sample i belongs to group i modulo their number, so
    any batch size works: the groups are equal where N allows it and differ by one sample where it
    does not; a group of one has the deviation 1e-4. (Karras et al., 2018; DDGAN, Table 7.)
    """
    n, _, height, width = x.shape
    groups = max(1, -(-n // group_size))
    # A squared deviation and the 1e-8 do not fit half precision.
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    if n % groups == 0:
        values = values.reshape(n // groups, groups, *x.shape[1:])
        deviation = _deviation(values)
        repeats = n // groups
    else:
        deviation = torch.cat([_deviation(values[j::groups, None]) for j in range(groups)])
        repeats = -(-n // groups)
    per_sample = deviation.repeat(repeats)[:n].to(x.dtype)
    return torch.cat([x, per_sample[:, None, None, None].expand(n, 1, height, width)], dim=1)


def _deviation(values: Tensor) -> Tensor:
    """Map (samples, groups, C, H, W) to the mean standard deviation of each group."""
    # torch.var over so few, far apart values is ten times as slow.
    variance = (values - values.mean(dim=0)).square().mean(dim=0)
    return (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))


class DownBlock(Checkpointed):
    """Residual block without normalization; ``down`` halves the feature map by FIR filter."""

    def __init__(
        self, in_channels: int, out_channels: int, *, down: bool, fir_kernel: tuple[float, ...]
    ):
        super().__init__()
        self.out_channels = out_channels
        self.fir_kernel = fir_kernel if down else None
        self.conv1 = conv2d(in_channels, out_channels, 3, fan="out")
        self.conv2 = conv2d(out_channels, out_channels, 3, fan="out", scale=0.0)
        self.shortcut = conv2d(in_channels, out_channels, 1, bias=False, fan="out")

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'), with ``time`` (N, C_out)."""
        return self.checkpointed(self._forward, x, time)

    def _forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(x, SLOPE)).add_(time[:, :, None, None])
        h = F.leaky_relu_(h, SLOPE)
        if self.fir_kernel is not None:
            h, x = downsample2d(h, self.fir_kernel), downsample2d(x, self.fir_kernel)
        return scaled_sum(self.conv2(h), self.shortcut(x), 0.5**0.5)


@MODELS.register_module()
class TimeDependentDiscriminator(nn.Module):
    """Logits of x_{t-1} being real, given x_t and t.

    ``in_channels`` counts those of x_{t-1} and x_t together. ``blocks`` lists (output channels,
    halve the resolution?) per residual block. ``head_conv`` is the 3x3 convolution after the
    minibatch standard deviation, which the published release has and Table 7 does not;
    ``head_conv_scale`` is its initial scale, about 0 in the release's small discriminator.
    Groups of the minibatch standard deviation have at most ``stddev_group`` samples.
    ``channels_last`` and ``checkpoint_activations`` are those of ``NCSNpp``. Raises ValueError for
    an empty block list and odd ``in_channels``.
    """

    memory_format: torch.memory_format

    def __init__(
        self,
        in_channels: int = 6,
        stem_channels: int = 128,
        blocks: Sequence[Sequence[int | bool]] = (
            (128, False),
            (256, True),
            (512, True),
            (512, True),
        ),
        time_embedding_dim: int = 256,
        head_conv: bool = True,
        head_conv_scale: float = 0.0,
        stddev_group: int = 4,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        channels_last: bool = False,
        checkpoint_activations: bool = False,
    ):
        super().__init__()
        if not blocks:
            raise ValueError("blocks is empty; expected (out_channels, down) pairs")
        if in_channels < 2 or in_channels % 2:
            raise ValueError(
                f"in_channels is {in_channels}; expected an even number, twice the channels of "
                "the data, as the network sees x_prev and x_t together"
            )
        if stddev_group < 1:
            raise ValueError(f"stddev_group is {stddev_group}; expected at least 1")
        self.in_channels = in_channels
        self.stddev_group = stddev_group
        self.time_embedding = TimeEmbedding(
            time_embedding_dim, time_embedding_dim, nn.LeakyReLU(SLOPE), fan="out"
        )
        self.time_projection = SplitLinear(time_embedding_dim, [c for c, _ in blocks], fan="out")
        self.stem = conv2d(in_channels, stem_channels, 1, fan="out")
        self.blocks = nn.ModuleList()
        channels = stem_channels
        for out_channels, down in blocks:
            self.blocks.append(
                DownBlock(channels, out_channels, down=bool(down), fir_kernel=tuple(fir_kernel))
            )
            channels = out_channels
        self.min_size = 2 ** sum(bool(down) for _, down in blocks)
        self.head_conv = (
            conv2d(channels + 1, channels, 3, fan="out", scale=head_conv_scale)
            if head_conv
            else None
        )
        self.head = linear(channels if head_conv else channels + 1, 1, fan="out")
        set_options(self, checkpoint_activations, channels_last)

    def forward(self, x_prev: Tensor, t: Tensor, x_t: Tensor) -> Tensor:
        """Logits (N, 1) for (N, C, H, W) images and 0-based time indices ``t`` (N,).

        Raises ValueError for shapes that do not fit.
        """
        self._check(x_prev, t, x_t)
        times = self.time_projection(F.leaky_relu(self.time_embedding(t), SLOPE))
        pair = torch.cat([x_prev, x_t], dim=1)
        h = self.stem(pair.contiguous(memory_format=self.memory_format))
        for block, time in zip(self.blocks, times, strict=True):
            h = block(h, time)
        h = minibatch_stddev(h, self.stddev_group)
        if self.head_conv is None:
            h = F.leaky_relu(h, SLOPE)
        else:
            h = same_conv2d(h, self.head_conv.weight)
            h = fused_bias_leaky_relu(h, self.head_conv.bias, SLOPE, gain=1)
        return self.head(h.sum(dim=(2, 3))).to(x_prev.dtype)

    def _check(self, x_prev: Tensor, t: Tensor, x_t: Tensor) -> None:
        n, channels = x_prev.shape[0], self.in_channels // 2
        if x_prev.shape != x_t.shape or x_prev.ndim != 4 or x_prev.shape[1] != channels:
            raise ValueError(
                f"x_prev has shape {tuple(x_prev.shape)} and x_t {tuple(x_t.shape)}; expected two "
                f"of (N, {channels}, H, W), as the discriminator has in_channels="
                f"{self.in_channels}"
            )
        if min(x_prev.shape[2:]) < self.min_size:
            raise ValueError(
                f"images are {x_prev.shape[2]}x{x_prev.shape[3]}, but the blocks halve them to "
                f"nothing; expected at least {self.min_size} pixels a side or fewer down blocks"
            )
        if t.shape != (n,):
            raise ValueError(f"t has shape {tuple(t.shape)}; expected ({n},), an index per sample")

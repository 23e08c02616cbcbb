"""Layers shared by the networks: initialisation, embeddings, normalization and attention."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from ddgan.ops import ada_group_norm, same_conv2d
from ddgan.ops.backend import forward_mode

Fan = Literal["avg", "out"]


@torch.no_grad()
def scaled_uniform_(weight: Tensor, fan: Fan, scale: float = 1.0) -> Tensor:
    """Fill ``weight`` (out, in, ...) from U(-a, a), a² = 3·scale/fan, and return it.

    A scale of 0 means 1e-10: almost zero, but gradients pass.
    """
    field = weight.shape[2:].numel()
    fan_in, fan_out = weight.shape[1] * field, weight.shape[0] * field
    n = (fan_in + fan_out) / 2 if fan == "avg" else fan_out
    limit = math.sqrt(3 * max(scale, 1e-10) / n)
    return weight.uniform_(-limit, limit)


class SameConv2d(nn.Conv2d):
    """A convolution of stride 1 that keeps the size."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W)."""
        return same_conv2d(x, self.weight, self.bias)


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = True,
    fan: Fan = "avg",
    scale: float = 1.0,
) -> nn.Conv2d:
    """A convolution with ``scaled_uniform_`` weights and zero bias, by default same-size."""
    if padding is None:
        padding = kernel_size // 2
    same = stride == 1 and kernel_size % 2 == 1 and padding == kernel_size // 2
    kind = SameConv2d if same else nn.Conv2d
    layer = kind(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
    scaled_uniform_(layer.weight, fan, scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def linear(
    in_features: int, out_features: int, *, fan: Fan = "avg", scale: float = 1.0
) -> nn.Linear:
    """A linear layer with ``scaled_uniform_`` weights and zero bias."""
    layer = nn.Linear(in_features, out_features)
    scaled_uniform_(layer.weight, fan, scale)
    nn.init.zeros_(layer.bias)
    return layer


def scaled_sum(x: Tensor, y: Tensor, gain: float) -> Tensor:
    """``gain * (x + y)``, overwriting ``y``."""
    return y.add_(x).mul_(gain)


class Checkpointed(nn.Module):
    """A module that keeps only its inputs for the backward pass if ``checkpoint_activations``.

    Activations are then recomputed for gradients, and again for gradients of gradients.
    """

    checkpoint_activations = False
    # The probability of dropout; the recomputation must repeat its draws.
    dropout = 0.0

    def checkpointed(self, function: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        """``function(*inputs)``, recomputed in the backward pass if asked for."""
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return function(*inputs)
        return checkpoint(
            function, *inputs, use_reentrant=False, preserve_rng_state=self.dropout > 0
        )


def set_options(network: nn.Module, checkpoint_activations: bool, channels_last: bool) -> None:
    """Set whether a finished network recomputes activations, and its memory layout."""
    for module in network.modules():
        if isinstance(module, Checkpointed):
            module.checkpoint_activations = checkpoint_activations
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.memory_format = layout  # type: ignore[assignment]
    network.to(memory_format=layout)  # type: ignore[call-overload]


class SplitLinear(nn.Linear):
    """Many linear layers of one input as a single matrix product, split into their outputs.

    A generator has dozens of small projections of the same latent or time embedding; one product
    costs one kernel launch. Each part is initialised like a separate layer.
    """

    def __init__(self, in_features: int, widths: Sequence[int], fan: Fan = "avg"):
        self.widths = tuple(widths)
        super().__init__(in_features, sum(self.widths))
        for part in self.weight.detach().split(self.widths):
            scaled_uniform_(part, fan)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Map (N, in_features) to one (N, width) per width."""
        return super().forward(x).split(self.widths, dim=-1)


class MappingNetwork(nn.Module):
    """StyleGAN's mapping network, z -> w, with the latent normalised first (Appendix C.1)."""

    def __init__(self, latent_dim: int, embedding_dim: int, num_layers: int):
        super().__init__()
        # The first layer only brings z to the width of w; the mapping layers proper follow.
        sizes = [latent_dim] + [embedding_dim] * (num_layers + 1)
        self.layers = nn.ModuleList(linear(a, b, fan="out") for a, b in pairwise(sizes))

    def forward(self, z: Tensor) -> Tensor:
        """Map (N, latent_dim) to (N, embedding_dim)."""
        w = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            w = F.silu(layer(w))
        return w


def check_latent(z: Tensor | None, n: int, latent_dim: int) -> None:
    """Raise ValueError unless ``z`` is (n, latent_dim), or None where there is no latent."""
    if latent_dim > 0 and (z is None or z.shape != (n, latent_dim)):
        got = "missing" if z is None else f"of shape {tuple(z.shape)}"
        raise ValueError(f"z is {got}; expected ({n}, {latent_dim}) latents")
    if latent_dim == 0 and z is not None:
        raise ValueError("z was given to a generator without latent; pass z=None")


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Embed (N,) times as (N, dim): sines, then cosines, of geometric frequencies 1 … 1e-4."""
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(index * (-math.log(1e4) / (half - 1)))
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoidal features of the time index (Ho et al., 2020) through two linear layers.

    ``num_features`` is even and at least 4; ValueError otherwise.
    """

    def __init__(self, num_features: int, dim: int, activation: nn.Module, fan: Fan = "avg"):
        super().__init__()
        if num_features % 2 or num_features < 4:
            raise ValueError(
                f"the time embedding has {num_features} features; expected an even number of at "
                "least 4"
            )
        self.num_features = num_features
        self.layer1 = linear(num_features, dim, fan=fan)
        self.activation = activation
        self.layer2 = linear(dim, dim, fan=fan)

    def forward(self, t: Tensor) -> Tensor:
        """Map (N,) time indices to (N, dim)."""
        features = sinusoidal_embedding(t, self.num_features).to(self.layer1.weight.dtype)
        return self.layer2(self.activation(self.layer1(features)))


def group_count(channels: int) -> int:
    """The largest divisor of ``channels`` that is at most 32 and a quarter of them."""
    limit = max(1, min(channels // 4, 32))
    return next(g for g in range(limit, 0, -1) if channels % g == 0)


class GroupNorm(nn.Module):
    """Group normalization, optionally followed by SiLU, with its own or a given scale and shift.

    An adaptive one has no parameters: the caller gives a ``style`` (N, 2 C), the scales of the
    channels and then their shifts (AdaGN, Appendix C.1).
    """

    def __init__(self, channels: int, *, adaptive: bool = False, silu: bool = True):
        super().__init__()
        self.channels = channels
        self.adaptive = adaptive
        self.num_groups = group_count(channels)
        self.activation = "silu" if silu else None
        if not adaptive:
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, style: Tensor | None = None) -> Tensor:
        """Normalise (N, C, H, W)."""
        if style is None:
            scale, shift = self.weight[None], self.bias[None]
        else:
            scale, shift = style.chunk(2, dim=1)
        return ada_group_norm(x, self.num_groups, scale, shift, 1e-6, self.activation)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if not forward_mode():
        return F.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no forward-mode derivative
        return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Single-head self-attention over the positions of a feature map, with a residual."""

    def __init__(self, channels: int, residual_gain: float = 1.0):
        super().__init__()
        self.residual_gain = residual_gain
        self.norm = GroupNorm(channels, silu=False)
        self.qkv = SplitLinear(channels, [channels] * 3)
        for part in self.qkv.weight.detach().split(channels):
            scaled_uniform_(part, "avg", 0.1)
        self.out = linear(channels, channels, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        n, c, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (part[:, None] for part in self.qkv(tokens))
        h = self.out(_attend(q, k, v)[:, 0])
        h = h.transpose(1, 2).reshape(n, c, height, width)
        # Not in place: h may be a view, whose gradient autograd would copy.
        return torch.add(x, h).mul_(self.residual_gain)

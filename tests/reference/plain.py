"""DDGAN once more in plain PyTorch: what the library is compared with, in results and in speed.

Only eager operators of torch, in float32 and in their default memory layout; every projection is a
layer of its own. The train step has the structure of the paper's release: three backwards in the
discriminator's step (real, R1, fake), the last of which also computes gradients of the generator
that nobody uses. Written from the paper (Xiao et al., 2022): sections and equations are its.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = (1.0, 3.0, 3.0, 1.0)
ROOT_HALF = 0.5**0.5


def filter_2d(gain: float, like: Tensor) -> Tensor:
    """Return the (1, 1, 4, 4) kernel of the binomial filter, of the given sum."""
    taps = torch.tensor(TAPS, dtype=like.dtype, device=like.device)
    kernel = torch.outer(taps, taps)
    return (gain * kernel / kernel.sum())[None, None]


def filtered(x: Tensor, gain: float, pads: tuple[int, int], stride: int = 1) -> Tensor:
    """Pad on all sides and filter every channel."""
    n, c, height, width = x.shape
    x = F.pad(x.reshape(n * c, 1, height, width), (*pads, *pads))
    y = F.conv2d(x, filter_2d(gain, x), stride=stride)
    return y.reshape(n, c, *y.shape[2:])


def up(x: Tensor) -> Tensor:
    """Double the size: zeros between the pixels, then the filter."""
    n, c, height, width = x.shape
    spread = x.new_zeros(n, c, height, 2, width, 2)
    spread[:, :, :, 0, :, 0] = x
    return filtered(spread.reshape(n, c, 2 * height, 2 * width), 4.0, (2, 1))


def down(x: Tensor) -> Tensor:
    """Halve the size: filter, every second pixel."""
    return filtered(x, 1.0, (1, 1), stride=2)


def embed(t: Tensor, dim: int) -> Tensor:
    """Return sines and cosines of the time index."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(1e4) / (half - 1)))
    angles = t[:, None].float() * frequencies
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


def groups(channels: int) -> int:
    """Return the number of groups of a group norm."""
    return next(g for g in range(max(1, min(32, channels // 4)), 0, -1) if channels % g == 0)


class AdaNorm(nn.Module):
    """Group norm whose scale and shift are a linear function of w (App. C.1)."""

    def __init__(self, channels: int, embedding_dim: int):
        super().__init__()
        self.groups = groups(channels)
        self.style = nn.Linear(embedding_dim, 2 * channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scale, shift = self.style(w)[:, :, None, None].chunk(2, dim=1)
        return scale * F.group_norm(x, self.groups, eps=1e-6) + shift


class Norm(nn.GroupNorm):
    """Group norm with weights."""

    def __init__(self, channels: int):
        super().__init__(groups(channels), channels, eps=1e-6)


class Block(nn.Module):
    """BigGAN's residual block."""

    def __init__(self, cin: int, cout: int, time_dim: int, embedding_dim: int, resample=None):
        super().__init__()
        self.resample = resample
        self.norm1 = AdaNorm(cin, embedding_dim)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.time = nn.Linear(time_dim, cout)
        self.norm2 = AdaNorm(cout, embedding_dim)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        changed = cin != cout or resample is not None
        self.shortcut = nn.Conv2d(cin, cout, 1) if changed else None

    def forward(self, x: Tensor, time: Tensor, w: Tensor) -> Tensor:
        h = F.silu(self.norm1(x, w))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h) + self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h, w)))
        if self.shortcut is not None:
            x = self.shortcut(x)
        return (x + h) * ROOT_HALF


class SelfAttention(nn.Module):
    """Attention of every position to all others."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = Norm(channels)
        self.q, self.k, self.v, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.q(tokens), self.k(tokens), self.v(tokens)
        weights = torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, dim=-1)
        return (x + self.out(weights @ v).transpose(1, 2).reshape(x.shape)) * ROOT_HALF


class Pyramid(nn.Module):
    """The downsampled input joins the features: filter, strided convolution, sum."""

    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, stride=2)

    def forward(self, h: Tensor, pyramid: Tensor) -> Tensor:
        return (self.conv(filtered(pyramid, 1.0, (2, 2))) + h) * ROOT_HALF


class Generator(nn.Module):
    """NCSN++ with a mapping network and adaptive norms (App. C.1)."""

    def __init__(
        self,
        size: int,
        base: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        latent_dim: int,
        embedding_dim: int,
        mapping_layers: int,
        channels: int = 3,
    ):
        super().__init__()
        self.base = base
        self.time1, self.time2 = nn.Linear(base, 4 * base), nn.Linear(4 * base, 4 * base)
        sizes = [latent_dim] + [embedding_dim] * (mapping_layers + 1)
        self.mapping = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

        def block(cin: int, cout: int, resample=None) -> Block:
            return Block(cin, cout, 4 * base, embedding_dim, resample)

        self.stem = nn.Conv2d(channels, base, 3, padding=1)
        self.layers = nn.ModuleList()  # in the order of execution
        kept, width, pyramid = [base], base, channels
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.layers.append(block(width, base * multiplier))
                width = base * multiplier
                if size >> level in attention:
                    self.layers.append(SelfAttention(width))
                kept.append(width)
            if level < len(multipliers) - 1:
                self.layers.append(block(width, width, down))
                self.layers.append(Pyramid(pyramid, width))
                pyramid = width
                kept.append(width)
        self.middle = nn.ModuleList(
            [block(width, width), SelfAttention(width), block(width, width)]
        )
        self.up_layers = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up_layers.append(block(width + kept.pop(), base * multiplier))
                width = base * multiplier
            if size >> level in attention:
                self.up_layers.append(SelfAttention(width))
            if level:
                self.up_layers.append(block(width, width, up))
        self.norm, self.conv = Norm(width), nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Return x_0, (N, C, H, W), for 0-based time indices and latents."""
        time = self.time2(F.silu(self.time1(embed(t, self.base).to(x_t.dtype))))
        w = z / torch.sqrt((z**2).mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = F.silu(layer(w))
        h, pyramid = self.stem(x_t), x_t
        kept = [h]
        for layer in self.layers:
            if isinstance(layer, SelfAttention):
                h = kept[-1] = layer(h)
            elif isinstance(layer, Pyramid):
                h = pyramid = kept[-1] = layer(h, pyramid)
            else:
                h = layer(h, time, w)
                kept.append(h)
        for layer in self.middle:
            h = layer(h) if isinstance(layer, SelfAttention) else layer(h, time, w)
        for layer in self.up_layers:
            if isinstance(layer, SelfAttention):
                h = layer(h)
            else:
                h = layer(h if layer.resample else torch.cat([h, kept.pop()], dim=1), time, w)
        return torch.tanh(self.conv(F.silu(self.norm(h))))


class DownBlock(nn.Module):
    """Residual block of the discriminator."""

    def __init__(self, cin: int, cout: int, halve: bool, time_dim: int):
        super().__init__()
        self.halve = halve
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.time = nn.Linear(time_dim, cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.shortcut = nn.Conv2d(cin, cout, 1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(x, 0.2)) + self.time(time)[:, :, None, None]
        h = F.leaky_relu(h, 0.2)
        if self.halve:
            h, x = down(h), down(x)
        return (self.conv2(h) + self.shortcut(x)) * ROOT_HALF


class Discriminator(nn.Module):
    """D(x_{t-1}, t, x_t) (App. C.1, Table 7)."""

    def __init__(self, stem: int, blocks, time_dim: int = 256, channels: int = 3, group: int = 4):
        super().__init__()
        self.time_dim, self.group = time_dim, group
        self.time1, self.time2 = nn.Linear(time_dim, time_dim), nn.Linear(time_dim, time_dim)
        self.stem = nn.Conv2d(2 * channels, stem, 1)
        widths = [stem, *(width for width, _ in blocks)]
        self.blocks = nn.ModuleList(
            DownBlock(cin, cout, halve, time_dim)
            for cin, (cout, halve) in zip(widths[:-1], blocks, strict=True)
        )
        self.conv = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, x_prev: Tensor, t: Tensor, x_t: Tensor) -> Tensor:
        """Return logits (N,)."""
        time = F.leaky_relu(self.time1(embed(t, self.time_dim).to(x_t.dtype)), 0.2)
        time = F.leaky_relu(self.time2(time), 0.2)
        h = self.stem(torch.cat([x_prev, x_t], dim=1))
        for block in self.blocks:
            h = block(h, time)
        n, c, height, width = h.shape
        size = min(self.group, n)
        grouped = h.reshape(size, n // size, c, height, width)
        deviation = torch.sqrt(grouped.var(dim=0, unbiased=False) + 1e-8).mean(dim=(1, 2, 3))
        deviation = deviation.repeat(size)[:, None, None, None].expand(n, 1, height, width)
        h = F.leaky_relu(self.conv(torch.cat([h, deviation], dim=1)), 0.2)
        return self.head(h.sum(dim=(2, 3)))[:, 0]


@dataclass
class Draws:
    """The random numbers of half a train step: t (N,) in 1 … T, noises like x_0, z (N, latent)."""

    t: Tensor
    noise: Tensor
    step_noise: Tensor
    z: Tensor
    posterior_noise: Tensor


class Process:
    """The tables of the diffusion (Eqs. 7, 8, 11 and 16), entry 0 for the data."""

    def __init__(self, steps: int, beta_min=0.1, beta_max=20.0, epsilon=1e-3, like=None):
        like = torch.zeros(()) if like is None else like
        time = torch.arange(steps + 1, dtype=torch.float64) / steps * (1 - epsilon) + epsilon
        bar = torch.exp(-0.5 * time**2 * (beta_max - beta_min) - time * beta_min)
        beta = torch.cat([torch.zeros(1, dtype=torch.float64), 1 - bar[1:] / bar[:-1]])
        bar = torch.cumprod(1 - beta, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
        rest = torch.where(bar < 1, 1 - bar, 1.0)
        self.steps = steps
        self.signal, self.sigma = bar.sqrt().to(like), (1 - bar).sqrt().to(like)
        self.step_signal, self.step_sigma = (1 - beta).sqrt().to(like), beta.sqrt().to(like)
        self.mean_x0 = (before.sqrt() * beta / rest).to(like)
        self.mean_x_t = ((1 - beta).sqrt() * (1 - before) / rest).to(like)
        self.deviation = (beta * (1 - before) / rest).sqrt().to(like)

    def pair(self, x0: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return x_{t-1} and x_t."""
        before, now = draws.t - 1, draws.t
        x_prev = at(self.signal, before) * x0 + at(self.sigma, before) * draws.noise
        return x_prev, at(self.step_signal, now) * x_prev + at(self.step_sigma, now) * (
            draws.step_noise
        )

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return x_{t-1} given x_0 and x_t."""
        mean = at(self.mean_x0, t) * x0 + at(self.mean_x_t, t) * x_t
        return mean + at(self.deviation, t) * noise


def at(table: Tensor, t: Tensor) -> Tensor:
    """Return entries of a table, to be broadcast over images."""
    return table[t][:, None, None, None]


@dataclass
class Trainer:
    """Both networks, their optimizers, and the average of the generator."""

    generator: Generator
    average: Generator
    discriminator: Discriminator
    process: Process
    g_optimizer: torch.optim.Optimizer
    d_optimizer: torch.optim.Optimizer
    r1_gamma: float
    ema_decay: float

    def draws(self, x0: Tensor, latent_dim: int) -> Draws:
        """Draw what half a step needs."""
        n, device = len(x0), x0.device
        t = torch.randint(1, self.process.steps + 1, (n,), device=device)
        noise, step_noise, posterior_noise = (torch.randn_like(x0) for _ in range(3))
        return Draws(t, noise, step_noise, torch.randn(n, latent_dim).to(x0), posterior_noise)

    def step(self, x0: Tensor, for_d: Draws, for_g: Draws, with_r1: bool) -> dict[str, Tensor]:
        """Make one iteration; return the losses."""
        losses = self.discriminator_step(x0, for_d, with_r1)
        losses["g_loss"] = self.generator_step(x0, for_g)
        with torch.no_grad():
            for average, current in zip(
                self.average.parameters(), self.generator.parameters(), strict=True
            ):
                average.mul_(self.ema_decay).add_(current, alpha=1 - self.ema_decay)
        return losses

    def discriminator_step(self, x0: Tensor, draws: Draws, with_r1: bool) -> dict[str, Tensor]:
        """Update the discriminator, by three backwards."""
        losses = {}
        self.d_optimizer.zero_grad()
        x_prev, x_t = self.process.pair(x0, draws)
        x_prev.requires_grad_(True)
        logits = self.discriminator(x_prev, draws.t - 1, x_t)
        real = F.softplus(-logits).mean()
        real.backward(retain_graph=True)
        if with_r1:
            (gradient,) = torch.autograd.grad(logits.sum(), x_prev, create_graph=True)
            losses["r1"] = (gradient.reshape(len(x0), -1) ** 2).sum(dim=1).mean()
            (0.5 * self.r1_gamma * losses["r1"]).backward()
        fake = F.softplus(self.discriminator(self.fake(x_t, draws), draws.t - 1, x_t)).mean()
        fake.backward()
        self.d_optimizer.step()
        return losses | {"d_loss": (real + fake).detach()}

    def generator_step(self, x0: Tensor, draws: Draws) -> Tensor:
        """Update the generator, on new draws."""
        self.discriminator.requires_grad_(False)
        self.g_optimizer.zero_grad()
        x_t = self.process.pair(x0, draws)[1]
        loss = F.softplus(-self.discriminator(self.fake(x_t, draws), draws.t - 1, x_t)).mean()
        loss.backward()
        self.g_optimizer.step()
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def fake(self, x_t: Tensor, draws: Draws) -> Tensor:
        """Return a generated x_{t-1}."""
        x0 = self.generator(x_t, draws.t - 1, draws.z)
        return self.process.posterior(x0, x_t, draws.t, draws.posterior_noise)


@torch.no_grad()
def sample(generator: Generator, process: Process, x: Tensor, latent_dim: int) -> Tensor:
    """Draw uint8 images by ancestral sampling from the noise ``x``."""
    for step in range(process.steps, 0, -1):
        t = torch.full((len(x),), step, device=x.device)
        x0 = generator(x, t - 1, torch.randn(len(x), latent_dim, device=x.device))
        x = process.posterior(x0, x, t, torch.randn_like(x))
    return ((x + 1) / 2 * 255).round().clamp(0, 255).to(torch.uint8)

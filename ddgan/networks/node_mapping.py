"""SPI-GAN's mapping from noise to a path of latents h(t) (Sec. 3.3)."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddgan.diffusion.ode import METHODS, integrate, states_at
from ddgan.errors import ConfigError
from ddgan.networks.stylegan2_layers import EqualizedLinear
from ddgan.registry import MODELS

ADAPTIVE_METHODS = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
# 1 / sqrt(E[silu(x)²]) for a standard normal x: keeps the variance of equalised layers at 1.
SILU_GAIN = 1.6766


class NoiseEmbedding(nn.Module):
    """The network o: noise in the shape of an image → h(0), by pooling and one linear layer.

    Images larger than ``pool_to`` pixels are averaged down to it first: the noise loses nothing
    but its redundancy, and a layer of 256 x 256 images would have 100 million weights. The
    average of k pixels is scaled by √k, which keeps white noise white, of variance 1.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        dim: int,
        pool_to: int = 32,
        lr_multiplier: float = 1.0,
    ):
        super().__init__()
        channels, *size = data_shape
        if pool_to < 1:
            raise ValueError(f"pool_to is {pool_to}; expected a resolution of at least 1")
        # Windows of a whole number of pixels, the same for all; a margin is left out.
        self.windows = tuple(-(-n // pool_to) for n in size)
        pooled = [n // window for n, window in zip(size, self.windows, strict=True)]
        inputs = channels * math.prod(pooled)
        self.linear = EqualizedLinear(inputs, dim, lr_multiplier=lr_multiplier)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) noise of unit variance to h(0), (N, dim)."""
        area = math.prod(self.windows)
        if area > 1:
            x = F.avg_pool2d(x, self.windows) * math.sqrt(area)
        return self.linear(x.flatten(1))


class TimedMLP(nn.Module):
    """Linear layers of equalised learning rate with SiLU in between, of a vector and t in [0, 1].

    SiLU is smooth, so the order of the solvers holds. Each hidden layer sees t again.
    """

    def __init__(self, dim: int, hidden_dim: int, num_layers: int, lr_multiplier: float):
        super().__init__()
        if min(dim, hidden_dim, num_layers) < 1:
            raise ValueError(
                f"dim is {dim}, hidden_dim {hidden_dim} and num_layers {num_layers}; expected at "
                "least 1 of each"
            )
        sizes = [dim] + [hidden_dim] * (num_layers - 1)
        self.hidden = nn.ModuleList(
            EqualizedLinear(n + 1, hidden_dim, lr_multiplier=lr_multiplier) for n in sizes[:-1]
        )
        self.out = EqualizedLinear(sizes[-1] + 1, dim, lr_multiplier=lr_multiplier)

    def forward(self, t: Tensor | float, h: Tensor) -> Tensor:
        """Map (…, dim) to the same shape; ``t`` is a number or broadcasts to (…, 1)."""
        return self.prepared()(t, h)

    def prepared(self) -> Callable[[Tensor | float, Tensor], Tensor]:
        """The network as a function of (t, h) with its weights scaled once, for many calls.

        A layer of (h, t) is W h + (b + t w), so t is folded into the biases of all layers at once.
        """
        layers = [*self.hidden, self.out]
        weights = [layer.weight[:, :-1] * self._gain(i) for i, layer in enumerate(layers)]
        # Scaled by √dim, the one feature of time weighs as much as all others together; as a mere
        # further column it would be lost among 512.
        slopes = torch.cat(
            [x.weight[:, -1] * (x.gain * math.sqrt(x.weight.shape[1] - 1)) for x in layers]
        )
        biases = torch.cat([layer.bias for layer in layers]) * self.out.lr_multiplier
        sizes = [len(layer.bias) for layer in layers]

        def network(t: Tensor | float, h: Tensor) -> Tensor:
            if isinstance(t, Tensor):
                offsets = torch.addcmul(biases, t.to(h.dtype), slopes).split(sizes, dim=-1)
            else:
                offsets = torch.add(biases, slopes, alpha=t).split(sizes)
            for weight, offset in zip(weights[:-1], offsets[:-1], strict=True):
                h = F.silu(_affine(h, weight, offset))
            return _affine(h, weights[-1], offsets[-1])

        return network

    def _gain(self, index: int) -> float:
        """The factor of a layer's weights of h, with that of the SiLU before it."""
        gain = [*self.hidden, self.out][index].gain
        return gain * SILU_GAIN if index else gain


def _affine(h: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    if offset.ndim == 1:
        return F.linear(h, weight, offset)
    return F.linear(h, weight) + offset


@MODELS.register_module()
class NeuralODEMapping(nn.Module):
    """h(t) = h(0) + ∫ r(h, t) dt, with r a network of linear layers (Eq. 6).

    ``solver`` is "euler", "midpoint" or "rk4", with ``num_steps`` equal steps over [0, 1] and one
    shorter step to a time within. h(1) is then the same in training and sampling, whatever times
    were drawn. With "dopri5", "dopri8", "bosh3" or "adaptive_heun" torchdiffeq chooses the steps
    for the tolerances; outside of training, for each sample by itself, since steps chosen for a
    batch make a sample depend on the others.
    """

    grid_points: Tensor

    def __init__(
        self,
        dim: int = 512,
        hidden_dim: int = 512,
        num_layers: int = 3,
        lr_multiplier: float = 0.01,
        solver: str = "rk4",
        num_steps: int = 4,
        rtol: float = 1e-5,
        atol: float = 1e-5,
    ):
        super().__init__()
        if solver not in (*METHODS, *ADAPTIVE_METHODS):
            raise ValueError(
                f"solver is {solver!r}; expected one of {[*METHODS, *ADAPTIVE_METHODS]}"
            )
        if num_steps < 1 or rtol <= 0 or atol <= 0:
            raise ValueError(
                f"num_steps is {num_steps}, rtol {rtol} and atol {atol}; expected num_steps >= 1 "
                "and tolerances above 0"
            )
        if solver in ADAPTIVE_METHODS:
            _torchdiffeq()
        self.dim = dim
        self.solver = solver
        self.rtol, self.atol = rtol, atol
        self.r = TimedMLP(dim, hidden_dim, num_layers, lr_multiplier)
        self.grid = [k / num_steps for k in range(num_steps + 1)]
        self.register_buffer("grid_points", torch.tensor(self.grid), persistent=False)

    def forward(self, h0: Tensor, times: Tensor | None = None) -> Tensor:
        """h at each of ``times`` and at 1, (K, N, dim), from h(0) (N, dim).

        ``times`` (K - 1,) lie in [0, 1], in any order; None means none.
        """
        # A fake tensor has no values from which an adaptive solver could take its error.
        if self.solver in ADAPTIVE_METHODS and type(h0) is Tensor:
            return self._adaptive(h0, times)
        method = self.solver if self.solver in METHODS else "rk4"
        r = self.r.prepared()
        states = integrate(r, h0, self.grid, method)
        if times is None or len(times) == 0:
            return states[-1][None]
        inner = states_at(r, self.grid_points, states, times, method)
        return torch.cat([inner, states[-1][None]])

    def _adaptive(self, h0: Tensor, times: Tensor | None) -> Tensor:
        if times is None:
            times = h0.new_empty(0)
        # The solver wants increasing times that begin at 0; equal ones are asked for once.
        ends = torch.tensor([0.0, 1.0], device=times.device)
        points, position = torch.cat([ends, times.float()]).unique(return_inverse=True)
        r = self.r.prepared()

        def solve(h: Tensor) -> Tensor:
            return _torchdiffeq().odeint(
                r, h, points, rtol=self.rtol, atol=self.atol, method=self.solver
            )

        parts = [h0] if self.training else h0.split(1)
        solution = torch.cat([solve(part) for part in parts], dim=1)
        return solution[torch.cat([position[2:], position[1:2]])]


def _torchdiffeq():
    try:
        import torchdiffeq
    except ImportError as error:
        raise ConfigError(
            f"adaptive ODE solvers need torchdiffeq, which is not there ({error}); "
            f"pip install torchdiffeq, or choose one of {[*METHODS]}"
        ) from None
    return torchdiffeq


@MODELS.register_module()
class MLPMapping(nn.Module):
    """h(t) as a network of (h(0), t), without an ODE: an ablation of ``NeuralODEMapping``."""

    def __init__(
        self,
        dim: int = 512,
        hidden_dim: int = 512,
        num_layers: int = 3,
        lr_multiplier: float = 0.01,
    ):
        super().__init__()
        self.dim = dim
        self.mlp = TimedMLP(dim, hidden_dim, num_layers, lr_multiplier)

    def forward(self, h0: Tensor, times: Tensor | None = None) -> Tensor:
        """h at each of ``times`` (K - 1,) and at 1, (K, N, dim), from h(0) (N, dim)."""
        end = h0.new_ones(1)
        times = end if times is None else torch.cat([times, end])
        h0 = h0.expand(len(times), *h0.shape)
        return self.mlp(times[:, None, None], h0)

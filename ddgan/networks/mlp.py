"""Fully connected generators and discriminators: for points, and for very small images.

The sizes for the 25 Gaussians are those of DDGAN, Appendix C.5.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddgan.networks.discriminator import minibatch_stddev
from ddgan.networks.layers import check_latent, sinusoidal_embedding
from ddgan.registry import MODELS

SLOPE = 0.2


def _hidden(in_features: int, hidden_dim: int, num_layers: int) -> nn.Sequential:
    """``num_layers`` linear layers, each followed by leaky ReLU."""
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(in_features, hidden_dim), nn.LeakyReLU(SLOPE)]
        in_features = hidden_dim
    return nn.Sequential(*layers)


def _time_column(t: Tensor, num_steps: int, x: Tensor) -> Tensor:
    """The times t/T in (0, 1], (N, 1), from 0-based indices (N,)."""
    if t.shape != x.shape[:1]:
        raise ValueError(
            f"t has shape {tuple(t.shape)}; expected ({x.shape[0]},), an index per sample"
        )
    return ((t.to(x.dtype) + 1) / num_steps)[:, None]


def _check_data(data_shape: tuple[int, ...], **data: Tensor) -> None:
    for name, x in data.items():
        if tuple(x.shape[1:]) != data_shape:
            expected = ", ".join(["N", *map(str, data_shape)])
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected ({expected})")


@MODELS.register_module()
class MLPGenerator(nn.Module):
    """Predict x_0 from x_t, the time and a latent, all concatenated; ``num_steps`` is T.

    ``latent_dim=0`` means no latent. ``tanh`` bounds the output, as images are. The time enters
    as t/T, or with ``time_embedding_dim`` as that many sines and cosines of t, which tell hundreds
    of steps apart. In DDPM the network predicts the noise instead of x_0.
    """

    def __init__(
        self,
        num_steps: int,
        data_shape: Sequence[int] = (2,),
        latent_dim: int = 2,
        hidden_dim: int = 512,
        num_layers: int = 3,
        tanh: bool = False,
        time_embedding_dim: int | None = None,
    ):
        super().__init__()
        if time_embedding_dim is not None and (time_embedding_dim < 4 or time_embedding_dim % 2):
            raise ValueError(
                f"time_embedding_dim is {time_embedding_dim}; expected None or an even number of "
                "at least 4"
            )
        self.num_steps = num_steps
        self.latent_dim = latent_dim
        self.data_shape = tuple(data_shape)
        self.tanh = tanh
        self.time_embedding_dim = time_embedding_dim
        size = math.prod(self.data_shape)
        self.hidden = _hidden(size + (time_embedding_dim or 1) + latent_dim, hidden_dim, num_layers)
        self.out = nn.Linear(hidden_dim, size)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """The prediction of x_0, (N, *data_shape).

        ``t`` (N,) holds 0-based time indices, ``z`` is (N, latent_dim), or None without a latent.
        Raises ValueError for other shapes.
        """
        _check_data(self.data_shape, x_t=x_t)
        time = _time_column(t, self.num_steps, x_t)
        if self.time_embedding_dim is not None:
            time = sinusoidal_embedding(t, self.time_embedding_dim).to(x_t.dtype)
        inputs = [x_t.flatten(1), time]
        check_latent(z, x_t.shape[0], self.latent_dim)
        if z is not None:
            inputs.append(z)
        out = self.out(self.hidden(torch.cat(inputs, dim=1)))
        return (torch.tanh(out) if self.tanh else out).reshape(x_t.shape).to(x_t.dtype)


@MODELS.register_module()
class MLPLatentGenerator(nn.Module):
    """Map a latent z to a sample at once, as the generator of a plain GAN does.

    ``tanh`` bounds the output, as images are.
    """

    def __init__(
        self,
        data_shape: Sequence[int] = (2,),
        latent_dim: int = 2,
        hidden_dim: int = 512,
        num_layers: int = 3,
        tanh: bool = False,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.data_shape = tuple(data_shape)
        self.tanh = tanh
        self.hidden = _hidden(latent_dim, hidden_dim, num_layers)
        self.out = nn.Linear(hidden_dim, math.prod(self.data_shape))

    def forward(self, z: Tensor) -> Tensor:
        """Samples (N, *data_shape) of latents (N, latent_dim)."""
        check_latent(z, z.shape[0], self.latent_dim)
        out = self.out(self.hidden(z))
        return (torch.tanh(out) if self.tanh else out).reshape(-1, *self.data_shape).to(z.dtype)


@MODELS.register_module()
class MLPDiscriminator(nn.Module):
    """Logits of x_{t-1} being real, given x_t and t, all concatenated; ``num_steps`` is T.

    With ``stddev_group`` the last of the hidden layers sees the minibatch standard deviation of
    its inputs, in groups of at most that many samples; it keeps the modes apart.
    """

    def __init__(
        self,
        num_steps: int,
        data_shape: Sequence[int] = (2,),
        hidden_dim: int = 512,
        num_layers: int = 3,
        stddev_group: int | None = None,
    ):
        super().__init__()
        if num_layers < 1 or (stddev_group is not None and stddev_group < 1):
            raise ValueError(
                f"num_layers is {num_layers} and stddev_group {stddev_group}; expected at least 1 "
                "of each, or stddev_group=None"
            )
        self.num_steps = num_steps
        self.data_shape = tuple(data_shape)
        self.stddev_group = stddev_group
        size = 2 * math.prod(self.data_shape) + 1
        self.hidden = _hidden(size, hidden_dim, num_layers - 1)
        width = hidden_dim if num_layers > 1 else size
        self.last = nn.Linear(width + (stddev_group is not None), hidden_dim)
        self.head = nn.Linear(hidden_dim, 1)

    def forward(self, x_prev: Tensor, t: Tensor, x_t: Tensor) -> Tensor:
        """Logits (N, 1) for (N, *data_shape) data and 0-based time indices ``t`` (N,).

        Raises ValueError for shapes that do not fit.
        """
        _check_data(self.data_shape, x_prev=x_prev, x_t=x_t)
        column = _time_column(t, self.num_steps, x_prev)
        h = self.hidden(torch.cat([x_prev.flatten(1), x_t.flatten(1), column], dim=1))
        if self.stddev_group is not None:
            h = minibatch_stddev(h[:, :, None, None], self.stddev_group).flatten(1)
        return self.head(F.leaky_relu(self.last(h), SLOPE)).to(x_prev.dtype)


@MODELS.register_module()
class MLPUnconditionalDiscriminator(nn.Module):
    """Logits of samples alone: the discriminator, or critic, of a plain GAN.

    ``stddev_group`` is as in ``MLPDiscriminator``.
    """

    def __init__(
        self,
        data_shape: Sequence[int] = (2,),
        hidden_dim: int = 512,
        num_layers: int = 3,
        stddev_group: int | None = None,
    ):
        super().__init__()
        if num_layers < 1 or (stddev_group is not None and stddev_group < 1):
            raise ValueError(
                f"num_layers is {num_layers} and stddev_group {stddev_group}; expected at least 1 "
                "of each, or stddev_group=None"
            )
        self.data_shape = tuple(data_shape)
        self.stddev_group = stddev_group
        self.hidden = _hidden(math.prod(self.data_shape), hidden_dim, num_layers)
        if stddev_group is not None:
            width = hidden_dim if num_layers > 1 else math.prod(self.data_shape)
            self.hidden[-2] = nn.Linear(width + 1, hidden_dim)
        self.head = nn.Linear(hidden_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 1) for (N, *data_shape) samples."""
        _check_data(self.data_shape, x=x)
        h = self.hidden[:-2](x.flatten(1))
        if self.stddev_group is not None:
            h = minibatch_stddev(h[:, :, None, None], self.stddev_group).flatten(1)
        return self.head(self.hidden[-2:](h)).to(x.dtype)

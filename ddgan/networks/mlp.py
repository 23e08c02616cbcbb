"""Generator and discriminator for points, such as the 25 Gaussians (DDGAN, Appendix C.5)."""

import torch
from torch import Tensor, nn

from ddgan.registry import MODELS


def _mlp(in_features: int, hidden_dim: int, num_layers: int, out_features: int) -> nn.Sequential:
    """Return ``num_layers`` hidden layers with leaky ReLU, then a linear output."""
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(in_features, hidden_dim), nn.LeakyReLU(0.2)]
        in_features = hidden_dim
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))


def _time_column(t: Tensor, num_steps: int, x: Tensor) -> Tensor:
    """Return the times t/T in (0, 1], (N, 1), from 0-based indices (N,)."""
    if t.shape != x.shape[:1]:
        raise ValueError(
            f"t has shape {tuple(t.shape)}; expected ({x.shape[0]},), an index per sample"
        )
    return ((t.to(x.dtype) + 1) / num_steps)[:, None]


def _check_points(data_dim: int, **points: Tensor) -> None:
    for name, x in points.items():
        if x.ndim != 2 or x.shape[1] != data_dim:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected (N, {data_dim}) points")


@MODELS.register_module()
class MLPGenerator(nn.Module):
    """Predict x_0 from x_t, the time and a latent, all concatenated; ``num_steps`` is T.

    ``latent_dim=0`` means no latent.
    """

    def __init__(
        self,
        num_steps: int,
        data_dim: int = 2,
        latent_dim: int = 2,
        hidden_dim: int = 512,
        num_layers: int = 3,
    ):
        super().__init__()
        self.num_steps = num_steps
        self.latent_dim = latent_dim
        self.data_shape = (data_dim,)
        self.net = _mlp(data_dim + 1 + latent_dim, hidden_dim, num_layers, data_dim)

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        """Return the prediction of x_0, (N, data_dim).

        ``t`` (N,) holds 0-based time indices, ``z`` is (N, latent_dim), or None without a latent.
        Raises ValueError for other shapes.
        """
        _check_points(self.data_shape[0], x_t=x_t)
        inputs = [x_t, _time_column(t, self.num_steps, x_t)]
        if self.latent_dim > 0:
            if z is None or z.shape != (x_t.shape[0], self.latent_dim):
                got = "missing" if z is None else f"of shape {tuple(z.shape)}"
                raise ValueError(
                    f"z is {got}; expected ({x_t.shape[0]}, {self.latent_dim}) latents"
                )
            inputs.append(z)
        elif z is not None:
            raise ValueError("z was given to a generator without latent; pass z=None")
        return self.net(torch.cat(inputs, dim=1)).to(x_t.dtype)


@MODELS.register_module()
class MLPDiscriminator(nn.Module):
    """Judge whether x_{t-1} is real, given x_t and t, all concatenated; ``num_steps`` is T."""

    def __init__(
        self, num_steps: int, data_dim: int = 2, hidden_dim: int = 512, num_layers: int = 3
    ):
        super().__init__()
        self.num_steps = num_steps
        self.data_dim = data_dim
        self.net = _mlp(2 * data_dim + 1, hidden_dim, num_layers, 1)

    def forward(self, x_prev: Tensor, t: Tensor, x_t: Tensor) -> Tensor:
        """Return logits (N, 1) for (N, data_dim) points and 0-based time indices ``t`` (N,).

        Raises ValueError for other shapes.
        """
        _check_points(self.data_dim, x_prev=x_prev, x_t=x_t)
        column = _time_column(t, self.num_steps, x_prev)
        return self.net(torch.cat([x_prev, x_t, column], dim=1)).to(x_prev.dtype)

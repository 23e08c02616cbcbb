"""A fully connected discriminator of i(t), for very small images."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddgan.networks.discriminator import minibatch_stddev
from ddgan.registry import MODELS

SLOPE = 0.2


@MODELS.register_module()
class MLPPathDiscriminator(nn.Module):
    """Logits of i(t) being real, from its pixels and t, concatenated.

    The last hidden layer sees the minibatch standard deviation of its inputs, in groups of at most
    ``stddev_group`` samples; it keeps the modes apart.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        hidden_dim: int = 512,
        num_layers: int = 4,
        stddev_group: int = 4,
    ):
        super().__init__()
        if num_layers < 2 or stddev_group < 1:
            raise ValueError(
                f"num_layers is {num_layers} and stddev_group {stddev_group}; expected at least 2 "
                "layers and groups of at least 1"
            )
        self.data_shape = tuple(data_shape)
        self.stddev_group = stddev_group
        sizes = [math.prod(self.data_shape) + 1] + [hidden_dim] * (num_layers - 1)
        self.hidden = nn.ModuleList(nn.Linear(size, hidden_dim) for size in sizes[:-1])
        self.last = nn.Linear(hidden_dim + 1, hidden_dim)
        self.head = nn.Linear(hidden_dim, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits (N, 1) for (N, *data_shape) images and times (N,) in [0, 1].

        Raises ValueError for shapes that do not fit.
        """
        if tuple(x.shape[1:]) != self.data_shape or t.shape != x.shape[:1]:
            expected = ", ".join(["N", *map(str, self.data_shape)])
            raise ValueError(
                f"x has shape {tuple(x.shape)} and t {tuple(t.shape)}; expected ({expected}) and "
                "(N,)"
            )
        h = torch.cat([x.flatten(1), t.to(x.dtype)[:, None]], dim=1)
        for layer in self.hidden:
            h = F.leaky_relu(layer(h), SLOPE)
        h = minibatch_stddev(h[:, :, None, None], self.stddev_group).flatten(1)
        return self.head(F.leaky_relu(self.last(h), SLOPE)).to(x.dtype)

"""Path length regularization (Karras et al., "Analyzing and improving …", 2020, Section 3.2)."""

import math

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """Return (N,) norms of Jᵀy, averaged over the styles' layers, differentiable once more.

    ``images`` (N, C, H, W) come from ``ws`` (N, num_ws, w_dim), which requires a gradient; J is
    their Jacobian. ``noise`` is standard normal of the images' shape; y is noise / √(H W), which
    makes the norm independent of the resolution.
    """
    y = noise / math.sqrt(math.prod(images.shape[2:]))
    (gradient,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    return gradient.to(dtype).square().sum(dim=2).mean(dim=1).sqrt()


class PathLengthPenalty(nn.Module):
    """The mean squared difference of path lengths and their running mean a (Eq. 4).

    ``decay`` is the weight of a new batch in a, which starts at 0 and is the same in all processes.
    """

    def __init__(self, decay: float = 0.01):
        super().__init__()
        if not 0 < decay <= 1:
            raise ValueError(f"decay is {decay}; expected a value in (0, 1]")
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, lengths: Tensor) -> Tensor:
        """Update a with the lengths (N,) of a batch and return the penalty, a scalar."""
        batch_mean = lengths.detach().mean().to(self.mean.dtype)
        all_reduce(batch_mean, op="mean")
        # A batch that overflowed is skipped by the optimizer; it must not stay in the mean.
        batch_mean = torch.where(batch_mean.isfinite(), batch_mean, self.mean)
        self.mean.lerp_(batch_mean, self.decay)
        # A copy, so that a later update leaves this graph alone.
        return (lengths - self.mean.clone()).square().mean()

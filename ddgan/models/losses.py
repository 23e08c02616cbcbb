"""Losses of the networks and their regularizers, as functions of logits and images."""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor, nn


def logistic_d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Discriminator's loss per sample, -log D(real) - log(1 - D(fake)), D = sigmoid(logits).

    (DDGAN, App. C.2)
    """
    return F.softplus(-real_logits) + F.softplus(fake_logits)


def logistic_g_loss(fake_logits: Tensor) -> Tensor:
    """Generator's non-saturating loss per sample, -log D(fake) (DDGAN, App. C.2)."""
    return F.softplus(-fake_logits)


def r1_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Mean squared norm of d logits / d x over samples, differentiable once more.

    ``logits`` come from ``x``, a batch that requires a gradient (Mescheder et al., 2018). The
    regularizer is γ/2 times this (DDGAN, App. C.2).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


def logits_with_r1(discriminate: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``discriminate(x)`` of real samples and their R1 penalty, in one forward pass."""
    with twice_differentiable(x.device):
        x = x.detach().requires_grad_(True)
        logits = discriminate(x)
        return logits, r1_penalty(logits, x)


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Mean of (‖d logits / d x‖ - 1)² over samples, differentiable once more.

    ``logits`` come from ``x``, a batch that requires a gradient (Gulrajani et al., 2017, Eq. 3).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    squared = gradient.float().square().flatten(1).sum(1)
    # The norm has no derivative at 0.
    return ((squared + 1e-12).sqrt() - 1).square().mean()


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """Norms (N,) of Jᵀy, averaged over the styles' layers, differentiable once more.

    ``images`` (N, C, H, W) come from ``ws`` (N, num_ws, w_dim), which requires a gradient; J is
    their Jacobian. ``noise`` is standard normal of the images' shape; y is noise / √(H W), which
    makes the norm independent of the resolution (Karras et al., "Analyzing and improving the
    image quality of StyleGAN", 2020, Section 3.2).
    """
    y = noise / math.sqrt(math.prod(images.shape[2:]))
    (gradient,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    return gradient.to(dtype).square().sum(dim=2).mean(dim=1).sqrt()


class PathLengthPenalty(nn.Module):
    """Mean squared difference of path lengths from their running mean a (ibid., Eq. 4).

    ``decay`` is the weight of a new batch in a, which starts at 0 and is equal in all processes.
    """

    mean: Tensor

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
        # The optimizer skips a batch that overflowed; it must not stay in the mean.
        batch_mean = torch.where(batch_mean.isfinite(), batch_mean, self.mean)
        self.mean.lerp_(batch_mean, self.decay)
        # A copy, so that a later update leaves this graph alone.
        return (lengths - self.mean.clone()).square().mean()


@contextlib.contextmanager
def twice_differentiable(device: torch.device) -> Iterator[None]:
    """Context for a penalty on gradients: full precision, and no compiled graphs.

    Compiled graphs have no second derivative.
    """
    with torch.autocast(device.type, enabled=False), torch.compiler.set_stance("force_eager"):
        yield


def mean_per_step(values: Tensor, t: Tensor, num_steps: int) -> Tensor:
    """Means (T,) of the values (B,) over the samples of each time step, NaN where there is none."""
    index = t - 1
    sums = torch.zeros(num_steps, device=values.device).index_add_(0, index, values.float())
    counts = torch.zeros(num_steps, device=values.device).index_add_(
        0, index, torch.ones_like(values, dtype=torch.float32)
    )
    return sums / counts


def logit_means(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Means of real and fake logits, for the log."""
    return {
        "real_logit": real.detach().float().mean(),
        "fake_logit": fake.detach().float().mean(),
    }

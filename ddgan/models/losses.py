"""Adversarial losses and the gradient penalty."""

import torch
import torch.nn.functional as F
from torch import Tensor


def non_saturating_loss(logits: Tensor, real: bool) -> Tensor:
    """Return -log D (``real``) or -log(1 - D) per logit, for D = sigmoid(logits) (DDGAN, C.2)."""
    return F.softplus(-logits) if real else F.softplus(logits)


def r1_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Return the mean squared norm of d logits / d x, which can be differentiated again.

    ``logits`` come from ``x``, a batch that requires a gradient (Mescheder et al., 2018). The
    batch mean is over samples: multiply by γ/2 for the regularizer of DDGAN, App. C.2.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


def mean_per_step(values: Tensor, t: Tensor, num_steps: int) -> Tensor:
    """Return the (T,) means of (B,) values over the samples of each time step, NaN if none."""
    index = t - 1
    sums = torch.zeros(num_steps, device=values.device).index_add_(0, index, values.float())
    counts = torch.zeros(num_steps, device=values.device).index_add_(
        0, index, torch.ones_like(values, dtype=torch.float32)
    )
    return sums / counts

"""The exponential moving average of a generator's weights."""

import torch
from torch import nn


class ExponentialMovingAverage:
    """The decay of the average and its updates; the averaged network belongs to the model.

    The average keeps the share ``decay`` per update. With ``warmup`` the decay starts low and
    grows as (1 + n) / (10 + n) over the updates n, which short trainings need. ``half_life``
    replaces both: the number of training images after which the weight of a past generator has
    halved, whatever the batch size. With ``ramp_up`` it is at most that share of the images seen
    so far (Karras et al., 2020, StyleGAN2-ADA).
    """

    def __init__(
        self,
        decay: float = 0.9999,
        warmup: bool = False,
        half_life: float | None = None,
        ramp_up: float | None = None,
    ):
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay is {decay}; expected a value in [0, 1)")
        if any(value is not None and value <= 0 for value in (half_life, ramp_up)):
            raise ValueError(
                f"ema_half_life is {half_life} and ema_ramp_up {ramp_up}; expected values above 0, "
                "or None"
            )
        self.decay, self.warmup = decay, warmup
        self.half_life, self.ramp_up = half_life, ramp_up
        self.updates = 0
        self.images_averaged = 0

    @torch.no_grad()
    def update(self, average: nn.Module, network: nn.Module, images_seen: int) -> None:
        """Move ``average`` towards ``network``, trained on ``images_seen`` images so far.

        The first update copies it. Buffers are always copied.
        """
        decay = self._next_decay(images_seen) if self.updates else 0.0
        current = [p.detach() for p in network.parameters()]
        torch._foreach_lerp_([*average.parameters()], current, 1 - decay)
        for to, of in zip(average.buffers(), network.buffers(), strict=True):
            to.copy_(of)
        self.updates += 1
        self.images_averaged = images_seen

    def _next_decay(self, images_seen: int) -> float:
        if self.half_life is None:
            warm = (1 + self.updates) / (10 + self.updates)
            return min(self.decay, warm) if self.warmup else self.decay
        half_life = self.half_life
        if self.ramp_up is not None:
            half_life = min(half_life, self.ramp_up * self.images_averaged)
        return 0.5 ** ((images_seen - self.images_averaged) / half_life)

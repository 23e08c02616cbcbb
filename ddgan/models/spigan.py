"""SPI-GAN: a GAN along the straight path from noise to data."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

from ddgan.diffusion import SampleNoise, StraightPath
from ddgan.errors import ConfigError
from ddgan.models.adversarial import frozen
from ddgan.models.base import Logs
from ddgan.models.losses import logistic_d_loss, logistic_g_loss, logit_means
from ddgan.models.rng import StepRandom
from ddgan.models.stylegan2 import StyleBasedModel
from ddgan.registry import MODELS

UPDATES = ("per_time", "summed")
STARTS = ("diffused", "prior")
# A loss of (times, whether the last is 1, x_T, x_0, rng).
LossAt = Callable[[Tensor, bool, Tensor, Tensor, StepRandom], tuple[Tensor, Logs]]


@MODELS.register_module()
class SPIGAN(StyleBasedModel):
    """One GAN for the images i(t) on the straight path, sampled in one evaluation (Algorithm 1).

    Time runs along the path: i(0) = x_T is noise, i(1) = x_0 is data.
    """

    def __init__(
        self,
        generator: dict | nn.Module,
        discriminator: dict | nn.Module,
        num_points: int = 2,
        update: str = "summed",
        fixed_points: bool = False,
        from_zero: bool = False,
        start: str = "diffused",
        sde: str = "vp",
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        r1_gamma: float = 0.01,
        r1_interval: int = 16,
        path_length_weight: float = 0.0,
        path_length_interval: int = 4,
        augment: dict | nn.Module | None = None,
        truncation: float = 1.0,
        ema_half_life: float | None = 500_000,
        ema_ramp_up: float | None = 0.05,
        data_preprocessor: dict | nn.Module | None = None,
    ):
        """Build the networks and the path.

        ``num_points`` is K: the discriminator sees each batch at K - 1 times drawn from U(0, 1) and
        at t = 1, or at 1/K, 2/K, …, 1 if ``fixed_points``, and then at 0 as well if ``from_zero``.
        ``update`` is "per_time", an update of a network for each time in turn (Algorithm 1), or
        "summed", one with the sum of the losses. Training starts from x_T that is "diffused" from
        x_0, or from the "prior" (``start``), as sampling does. ``sde`` and its numbers are those
        of ``StraightPath``. Every ``r1_interval`` iterations R1 is added with weight γ/2 times the
        interval, γ = ``r1_gamma``; every ``path_length_interval``, path length with
        ``path_length_weight`` times its interval. A weight of 0 means never. ``augment`` is applied
        to all that the discriminator sees, ``truncation`` in sampling. The average is described in
        ``ExponentialMovingAverage``.
        """
        super().__init__(
            generator,
            discriminator,
            r1_gamma=r1_gamma,
            r1_interval=r1_interval,
            path_length_weight=path_length_weight,
            path_length_interval=path_length_interval,
            augment=augment,
            truncation=truncation,
            ema_half_life=ema_half_life,
            ema_ramp_up=ema_ramp_up,
            data_preprocessor=data_preprocessor,
        )
        if num_points < 1:
            raise ValueError(f"num_points is {num_points}; expected at least 1")
        if update not in UPDATES:
            raise ValueError(f"update is {update!r}; expected one of {[*UPDATES]}")
        if start not in STARTS:
            raise ValueError(f"start is {start!r}; expected one of {[*STARTS]}")
        if from_zero and not fixed_points:
            raise ValueError(
                "from_zero is True and fixed_points False; times that are drawn are never 0: set "
                "fixed_points, or leave from_zero out"
            )
        self.num_points = num_points
        self.images_per_sample = num_points + from_zero
        self.per_time = update == "per_time"
        self.fixed_points, self.from_zero = fixed_points, from_zero
        self.start = start
        self.path = StraightPath(sde, beta_min, beta_max, sigma_min, sigma_max)

    def update_networks(self, x0: Tensor, rng: StepRandom, optim: OptimWrapperDict) -> Logs:
        """Update the discriminator, then the generator, with one batch: summed, or per time."""
        if not self.per_time:
            return super().update_networks(x0, rng, optim)
        logs = self.update_each_time("discriminator", self.discriminator_loss_at, x0, rng, optim)
        with frozen(self.discriminator):
            return logs | self.update_each_time("generator", self.generator_loss_at, x0, rng, optim)

    def update_each_time(
        self, name: str, loss_at: LossAt, x0: Tensor, rng: StepRandom, optim: OptimWrapperDict
    ) -> Logs:
        """Update one network at each time in turn (Algorithm 1, lines 5 to 12).

        Raises ConfigError if gradients accumulate, which would mix the times' updates.
        """
        *earlier, last = self.draw_times(rng).split(1)
        x_T = self.draw_start(x0, rng)
        parts = []
        for t in [*earlier, last]:
            parts.append(self.update(name, partial(loss_at, t, t is last, x_T), x0, rng, optim))
            if name not in self._stepped:
                raise ConfigError(
                    f"optim_wrapper.{name}.accumulative_counts is above 1, which does not go with "
                    "model.update='per_time'; expected 1, or 'summed'"
                )
        return sum_over_times(parts)

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Logistic loss with R1 on the real i(t) where it is due, summed over the times."""
        return self.discriminator_loss_at(
            self.draw_times(rng), True, self.draw_start(x0, rng), x0, rng
        )

    def discriminator_loss_at(
        self, times: Tensor, with_end: bool, x_T: Tensor, x0: Tensor, rng: StepRandom
    ) -> tuple[Tensor, Logs]:
        """The discriminator's loss at ``times``, whose last is 1 if ``with_end``."""
        with torch.no_grad():
            fakes, _ = self.generate(self.ddp("generator"), x_T, times, with_end, rng)

        losses, penalties = [], []
        for t, fake in zip(times, fakes, strict=True):

            def discriminate(images: Tensor, t: Tensor = t) -> Tensor:
                return self.logits(self.ddp("discriminator"), images, t, rng)

            # Eq. 7, with the x_T from which the fake was made as well.
            real_logits, r1 = self.real_logits(discriminate, self.path.interpolate(x0, x_T, t))
            fake_logits = discriminate(fake)
            losses.append(logistic_d_loss(real_logits, fake_logits).float().mean())
            penalties.append(r1)

        per_time = torch.stack(losses)
        loss = per_time.sum()
        # These logits are of the last time.
        logs = {
            "d_loss": loss.detach(),
            "d_loss_step": per_time.detach(),
            **logit_means(real_logits, fake_logits),
        }
        if with_end:
            # Clean images alone drive the augmentation: noise keeps the discriminator from
            # memorizing the others.
            logs |= self.update_augmentation(real_logits)
        r1 = None if penalties[0] is None else torch.stack(penalties).sum()  # type: ignore[arg-type]
        return self.add_r1(loss, logs, r1, times_interval=True)

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Non-saturating loss, summed over fresh times on fresh noise, with path lengths at t = 1.

        Path lengths are added where they are due, times their interval.
        """
        return self.generator_loss_at(self.draw_times(rng), True, self.draw_start(x0, rng), x0, rng)

    def generator_loss_at(
        self, times: Tensor, with_end: bool, x_T: Tensor, x0: Tensor, rng: StepRandom
    ) -> tuple[Tensor, Logs]:
        """The generator's loss at ``times``, whose last is 1 if ``with_end``."""
        fakes, _ = self.generate(self.ddp("generator"), x_T, times, with_end, rng)
        loss: Any = sum(
            logistic_g_loss(self.logits(self.discriminator, fake, t, rng)).float().mean()
            for t, fake in zip(times, fakes, strict=True)
        )
        logs = {"g_loss": loss.detach()}
        if not with_end:
            return loss, logs

        def generate_half() -> tuple[Tensor, Tensor]:
            # Half of a batch is enough, and half the memory.
            half = max(1, len(x_T) // 2)
            noise = [rng.normal(shape)[None, :half] for shape in self.generator.noise_shapes]
            images, styles = self.ddp("generator")(x_T[:half] / self.path.prior_std, None, noise)
            return images[-1], styles

        return self.add_path_length(loss, logs, generate_half, rng)

    def draw_times(self, rng: StepRandom) -> Tensor:
        """Times t_1 <= … <= t_K = 1 of a batch, the same for all its samples."""
        count = self.num_points
        if self.fixed_points:
            first = 0 if self.from_zero else 1
            return torch.arange(first, count + 1, device=rng.device) / count
        drawn = rng.shared_uniform(count - 1).sort().values
        return torch.cat([drawn, drawn.new_ones(1)])

    def draw_start(self, x0: Tensor, rng: StepRandom) -> Tensor:
        """x_T of a batch: the end of the forward SDE from x_0, or a draw of the prior."""
        noise = rng.normal(tuple(x0.shape[1:]))
        return self.path.prior_std * noise if self.start == "prior" else self.path.x_T(x0, noise)

    def generate(
        self, generator: nn.Module, x_T: Tensor, times: Tensor, with_end: bool, rng: StepRandom
    ) -> tuple[Tensor, Tensor]:
        """Fakes î(t) of x_T at ``times``, (K, B, C, H, W), and the styles at 1 if ``with_end``."""
        count = len(times)
        noise = [
            rng.normal((count, *shape)).transpose(0, 1) for shape in self.generator.noise_shapes
        ]
        z = x_T / self.path.prior_std
        if with_end:
            return generator(z, times[:-1], noise)
        return generator(z, times, noise, end=False)

    def logits(
        self, discriminator: nn.Module, images: Tensor, t: Tensor, rng: StepRandom
    ) -> Tensor:
        """Logits (B, 1) of images at one time t."""
        if self.augment is not None:
            images = self.augment(images, rng)
        return discriminator(images, t.expand(len(images)))

    def example_inputs(self, network: str) -> tuple[Tensor | None, ...]:
        """z of one sample, or an image and its time."""
        x = torch.zeros(1, *self.data_shape)
        if network == "discriminator":
            return x, torch.ones(1)
        return (x,)

    def draw(
        self,
        noise: SampleNoise,
        generator: nn.Module,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """î(1) of z ~ N(0, σ² I), by one evaluation of ``generator`` (Sec. 3.6)."""
        # Divided by its σ, as the generator takes it, z is standard normal.
        z, layers = self.split_noise(noise)
        images, _ = generator(z, None, [layer[None] for layer in layers], self.truncation)
        if callback is not None:
            callback(0, images[-1])
        return images[-1]

    def split_noise(self, noise: SampleNoise) -> tuple[Tensor, list[Tensor]]:
        """z (B, C, H, W) and the (B, 1, H, W) noise of each synthesis layer."""
        z, *layers = noise.normals(0, [self.data_shape, *self.generator.noise_shapes])
        return z, layers


def sum_over_times(parts: list[Logs]) -> Logs:
    """The logs of the updates at each time as those of one: losses summed, the rest of the last."""
    logs = dict(parts[-1])
    for name in {"d_loss", "g_loss", "r1"} & logs.keys():
        logs[name] = torch.stack([part[name] for part in parts]).sum()
    if "d_loss_step" in logs:
        logs["d_loss_step"] = torch.cat([part["d_loss_step"] for part in parts])
    return logs

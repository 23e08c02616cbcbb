"""SPI-GAN: a GAN along the straight path from noise to data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddgan.diffusion import SampleNoise, StraightPath
from ddgan.models.base import Logs
from ddgan.models.losses import logistic_d_loss, logistic_g_loss, logit_means
from ddgan.models.rng import StepRandom
from ddgan.models.stylegan2 import StyleBasedModel
from ddgan.registry import MODELS


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
        fixed_points: bool = False,
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
        at t = 1, or at 1/K, 2/K, …, 1 if ``fixed_points``. ``sde`` and its numbers are those of
        ``StraightPath``. Every ``r1_interval`` iterations R1 is added with weight γ/2 times the
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
        self.num_points = self.images_per_sample = num_points
        self.fixed_points = fixed_points
        self.path = StraightPath(sde, beta_min, beta_max, sigma_min, sigma_max)

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Logistic loss with R1 on the real i(t) where it is due, summed over the times."""
        times, x_T = self.draw_times(rng), self.path.x_T(x0, rng.normal(tuple(x0.shape[1:])))
        with torch.no_grad():
            fakes, _ = self.generate(self.ddp("generator"), x_T, times, rng)

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
        # These logits are of the last time, 1. Clean images alone drive the augmentation: noise
        # keeps the discriminator from memorizing the others.
        logs = {
            "d_loss": loss.detach(),
            "d_loss_step": per_time.detach(),
            **logit_means(real_logits, fake_logits),
            **self.update_augmentation(real_logits),
        }
        r1 = None if penalties[0] is None else torch.stack(penalties).sum()  # type: ignore[arg-type]
        return self.add_r1(loss, logs, r1, times_interval=True)

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Non-saturating loss, summed over fresh times on fresh noise, with path lengths at t = 1.

        Path lengths are added where they are due, times their interval.
        """
        times, x_T = self.draw_times(rng), self.path.x_T(x0, rng.normal(tuple(x0.shape[1:])))
        fakes, _ = self.generate(self.ddp("generator"), x_T, times, rng)
        loss: Any = sum(
            logistic_g_loss(self.logits(self.discriminator, fake, t, rng)).float().mean()
            for t, fake in zip(times, fakes, strict=True)
        )

        def generate_half() -> tuple[Tensor, Tensor]:
            # Half of a batch is enough, and half the memory.
            half = max(1, len(x_T) // 2)
            noise = [rng.normal(shape)[None, :half] for shape in self.generator.noise_shapes]
            images, styles = self.ddp("generator")(x_T[:half] / self.path.prior_std, None, noise)
            return images[-1], styles

        return self.add_path_length(loss, {"g_loss": loss.detach()}, generate_half, rng)

    def draw_times(self, rng: StepRandom) -> Tensor:
        """Times t_1 <= … <= t_K = 1 of a batch, the same for all its samples."""
        count = self.num_points
        if self.fixed_points:
            return torch.arange(1, count + 1, device=rng.device) / count
        drawn = rng.shared_uniform(count - 1).sort().values
        return torch.cat([drawn, drawn.new_ones(1)])

    def generate(
        self, generator: nn.Module, x_T: Tensor, times: Tensor, rng: StepRandom
    ) -> tuple[Tensor, Tensor]:
        """Fakes î(t) of x_T at ``times``, (K, B, C, H, W), and the styles at 1."""
        count = len(times)
        noise = [
            rng.normal((count, *shape)).transpose(0, 1) for shape in self.generator.noise_shapes
        ]
        return generator(x_T / self.path.prior_std, times[:-1], noise)

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

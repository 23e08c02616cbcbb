"""SPI-GAN: a GAN along the straight path from noise to data."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddgan.diffusion import SampleNoise, StraightPath
from ddgan.models.adversarial import AdversarialModel, Logs, uncompiled, without_autocast
from ddgan.models.base import build
from ddgan.models.losses import non_saturating_loss, r1_penalty
from ddgan.models.path_length import PathLengthPenalty, path_lengths
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS


@MODELS.register_module()
class SPIGAN(AdversarialModel):
    """One GAN for the images i(t) on the straight path, sampled in one evaluation (Algorithm 1).

    Time runs along the path: i(0) = x_T is noise, i(1) = x_0 is data.
    """

    num_evaluations = 1

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

        ``num_points`` is K: each batch is judged at K - 1 times drawn from U(0, 1) and at t = 1, or
        at 1/K, 2/K, …, 1 if ``fixed_points``. ``sde`` and its numbers are those of
        ``StraightPath``. Every ``r1_interval`` iterations the R1 regularizer of weight ``r1_gamma``
        is added, every ``path_length_interval`` that of path length, each times its interval; a
        weight of 0 means never. ``augment`` is applied to all that the discriminator sees.
        ``truncation`` is used in sampling. The average is described in ``GenerativeModel``.
        """
        super().__init__(
            generator,
            discriminator,
            ema_half_life=ema_half_life,
            ema_ramp_up=ema_ramp_up,
            data_preprocessor=data_preprocessor,
        )
        if num_points < 1 or r1_interval < 1 or path_length_interval < 1:
            raise ValueError(
                f"num_points is {num_points}, r1_interval {r1_interval} and path_length_interval "
                f"{path_length_interval}; expected at least 1 of each"
            )
        if r1_gamma < 0 or path_length_weight < 0:
            raise ValueError(
                f"r1_gamma is {r1_gamma} and path_length_weight {path_length_weight}; expected "
                "weights of at least 0"
            )
        self.num_points = self.images_per_sample = num_points
        self.fixed_points = fixed_points
        self.path = StraightPath(sde, beta_min, beta_max, sigma_min, sigma_max)
        self.r1_gamma = r1_gamma
        self.r1_interval = r1_interval
        self.path_length_weight = path_length_weight
        self.path_length_interval = path_length_interval
        self.path_length = PathLengthPenalty() if path_length_weight else None
        self.augment = None if augment is None else build(augment)
        self.truncation = truncation

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return the loss of the discriminator with R1 on the real i(t), summed over the times."""
        times, x_T = self.draw_times(rng), self.path.x_T(x0, rng.normal(tuple(x0.shape[1:])))
        with torch.no_grad():
            fakes, _ = self.generate(self.replica("generator"), x_T, times, rng)

        losses, penalties = [], []
        for t, fake in zip(times, fakes, strict=True):
            # Eq. 7, with the x_T from which the fake was made as well.
            real_logits, r1 = self.judge_real(self.path.interpolate(x0, x_T, t), t, rng)
            fake_logits = self.judge(self.replica("discriminator"), fake, t, rng)
            loss = non_saturating_loss(real_logits, real=True) + non_saturating_loss(
                fake_logits, real=False
            )
            losses.append(loss.float().mean())
            penalties.append(r1)

        per_time = torch.stack(losses)
        loss = per_time.sum()
        # The logits are those of the last time, 1.
        logs = {
            "d_loss": loss.detach(),
            "d_loss_step": per_time.detach(),
            "real_logit": real_logits.detach().float().mean(),
            "fake_logit": fake_logits.detach().float().mean(),
        }
        if self.augment is not None:
            # Of clean images alone: noise keeps the discriminator from learning others by heart.
            self.augment.update(real_logits.detach())
            logs["augment_p"] = self.augment.p.clone()
        if penalties[0] is not None:
            r1 = torch.stack(penalties).sum()
            loss = loss + 0.5 * self.r1_gamma * self.r1_interval * r1
            logs["r1"] = r1.detach()
        return loss, logs

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return the generator's non-saturating loss, summed over fresh times on fresh noise."""
        times, x_T = self.draw_times(rng), self.path.x_T(x0, rng.normal(tuple(x0.shape[1:])))
        fakes, _ = self.generate(self.replica("generator"), x_T, times, rng)
        # The bare discriminator: it gets no gradients here, so there is nothing to synchronise.
        logits = [
            self.judge(self.discriminator, fake, t, rng)
            for t, fake in zip(times, fakes, strict=True)
        ]
        loss = sum(non_saturating_loss(value, real=True).float().mean() for value in logits)
        logs = {"g_loss": loss.detach()}
        if self.path_length is not None and self.iteration % self.path_length_interval == 0:
            penalty = self.path_length_penalty(x_T, rng)
            loss = loss + self.path_length_weight * self.path_length_interval * penalty
            logs["path_length"] = penalty.detach()
        return loss, logs

    def draw_times(self, rng: StepRandom) -> Tensor:
        """Return the times t_1 <= … <= t_K = 1 of a batch, the same for all its samples."""
        count = self.num_points
        if self.fixed_points:
            return torch.arange(1, count + 1, device=rng.device) / count
        drawn = rng.shared_uniform(count - 1).sort().values
        return torch.cat([drawn, drawn.new_ones(1)])

    def generate(
        self, generator: nn.Module, x_T: Tensor, times: Tensor, rng: StepRandom
    ) -> tuple[Tensor, Tensor]:
        """Return the fakes î(t) of x_T at ``times``, (K, B, C, H, W), and the styles at 1."""
        count = len(times)
        noise = [
            rng.normal((count, *shape)).transpose(0, 1) for shape in self.generator.noise_shapes
        ]
        return generator(x_T / self.path.prior_std, times[:-1], noise)

    def judge(self, discriminator: nn.Module, images: Tensor, t: Tensor, rng: StepRandom) -> Tensor:
        """Return the logits (B, 1) of images at one time t."""
        if self.augment is not None:
            images = self.augment(images, rng)
        return discriminator(images, t.expand(len(images)))

    def judge_real(
        self, images: Tensor, t: Tensor, rng: StepRandom
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits of real i(t) and, where it is due, the R1 penalty."""
        discriminator = self.replica("discriminator")
        if self.r1_gamma == 0 or self.iteration % self.r1_interval != 0:
            return self.judge(discriminator, images, t, rng), None
        # A penalty on gradients is differentiated twice: in full precision, and eagerly, since a
        # compiled graph has no second derivative.
        with without_autocast(images.device), uncompiled():
            images = images.detach().requires_grad_(True)
            logits = self.judge(discriminator, images, t, rng)
            return logits, r1_penalty(logits, images)

    def path_length_penalty(self, x_T: Tensor, rng: StepRandom) -> Tensor:
        """Return the penalty at t = 1 of half of a batch, which is enough and half the memory."""
        half = max(1, len(x_T) // 2)
        with without_autocast(x_T.device), uncompiled():
            noise = [rng.normal(shape)[None, :half] for shape in self.generator.noise_shapes]
            generator = self.replica("generator")
            images, styles = generator(x_T[:half] / self.path.prior_std, None, noise)
            directions = rng.normal(tuple(images.shape[2:]))[:half]
            return self.path_length(path_lengths(images[-1], styles, directions))

    def example_inputs(self, network: str) -> tuple[Tensor | None, ...]:
        """Return z of one sample, or an image and its time."""
        x = torch.zeros(1, *self.data_shape)
        if network == "discriminator":
            return x, torch.ones(1)
        return (x,)

    @property
    def sampling_options(self) -> float:
        """The truncation."""
        return self.truncation

    def draw(
        self,
        noise: SampleNoise,
        generator: nn.Module,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Return î(1) of z ~ N(0, σ² I), by one evaluation of ``generator`` (Sec. 3.6)."""
        # Divided by its σ, as the generator takes it, z is standard normal.
        z, layers = self.split_noise(noise)
        images, _ = generator(z, None, [layer[None] for layer in layers], self.truncation)
        if callback is not None:
            callback(0, images[-1])
        return images[-1]

    def split_noise(self, noise: SampleNoise) -> tuple[Tensor, list[Tensor]]:
        """Return z (B, C, H, W) and the (B, 1, H, W) noise of each synthesis layer."""
        # All of one stream: for small images the number of draws is what takes time.
        shapes = [self.data_shape, *self.generator.noise_shapes]
        counts = [math.prod(shape) for shape in shapes]
        parts = noise.normal(0, (sum(counts),)).split(counts, dim=1)
        z, *layers = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        return z, layers

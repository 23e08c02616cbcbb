"""A plain StyleGAN2 (Karras et al., 2020): what SPI-GAN is without its path and its ODE."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddgan.diffusion import SampleNoise
from ddgan.models.adversarial import Logs, uncompiled, without_autocast
from ddgan.models.base import build
from ddgan.models.gan import LatentGAN, logit_means
from ddgan.models.losses import non_saturating_loss, r1_penalty
from ddgan.models.path_length import PathLengthPenalty, path_lengths
from ddgan.models.rng import StepRandom
from ddgan.networks.stylegan2_generator import draw_crossing
from ddgan.networks.stylegan2_synthesis import noise_shapes
from ddgan.registry import MODELS


@MODELS.register_module()
class StyleGAN2(LatentGAN):
    """StyleGAN2 with lazy R1, path length regularization, style mixing and augmentation.

    ``generator`` is a ``StyleGAN2Generator``, ``discriminator`` takes images alone.
    """

    def __init__(
        self,
        generator: dict | nn.Module,
        discriminator: dict | nn.Module,
        r1_gamma: float = 0.01,
        r1_interval: int = 16,
        path_length_weight: float = 0.0,
        path_length_interval: int = 4,
        mixing_probability: float = 0.0,
        augment: dict | nn.Module | None = None,
        truncation: float = 1.0,
        ema_half_life: float | None = 500_000,
        ema_ramp_up: float | None = 0.05,
        data_preprocessor: dict | nn.Module | None = None,
    ):
        """Build the networks.

        The arguments are those of ``SPIGAN``; ``mixing_probability`` is that of a sample whose
        later layers get the style of another latent in training.
        """
        super().__init__(
            generator,
            discriminator,
            ema_half_life=ema_half_life,
            ema_ramp_up=ema_ramp_up,
            data_preprocessor=data_preprocessor,
        )
        if r1_interval < 1 or path_length_interval < 1:
            raise ValueError(
                f"r1_interval is {r1_interval} and path_length_interval {path_length_interval}; "
                "expected at least 1 of each"
            )
        if r1_gamma < 0 or path_length_weight < 0 or not 0 <= mixing_probability <= 1:
            raise ValueError(
                f"r1_gamma is {r1_gamma}, path_length_weight {path_length_weight} and "
                f"mixing_probability {mixing_probability}; expected weights of at least 0 and a "
                "probability"
            )
        self.r1_gamma = r1_gamma
        self.r1_interval = r1_interval
        self.path_length_weight = path_length_weight
        self.path_length_interval = path_length_interval
        self.path_length = PathLengthPenalty() if path_length_weight else None
        self.mixing_probability = mixing_probability
        self.augment = None if augment is None else build(augment)
        self.truncation = truncation
        self.noise_shapes = noise_shapes(self.data_shape[-1])

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return the discriminator's non-saturating loss, with R1 where it is due."""
        with torch.no_grad():
            fake, _ = self.generate(rng)
        real_logits, r1 = self.judge_real(x0, rng)
        fake_logits = self.judge(self.replica("discriminator"), fake, rng)
        loss = non_saturating_loss(real_logits, real=True) + non_saturating_loss(
            fake_logits, real=False
        )
        loss = loss.float().mean()
        logs = {"d_loss": loss.detach(), **logit_means(real_logits, fake_logits)}
        if self.augment is not None:
            self.augment.update(real_logits.detach())
            logs["augment_p"] = self.augment.p.clone()
        if r1 is not None:
            loss = loss + 0.5 * self.r1_gamma * self.r1_interval * r1
            logs["r1"] = r1.detach()
        return loss, logs

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return the generator's non-saturating loss, with path lengths where they are due."""
        fake, _ = self.generate(rng)
        # The bare discriminator: it gets no gradients here, so there is nothing to synchronise.
        logits = self.judge(self.discriminator, fake, rng)
        loss = non_saturating_loss(logits, real=True).float().mean()
        logs = {"g_loss": loss.detach()}
        if self.path_length is not None and self.iteration % self.path_length_interval == 0:
            with without_autocast(x0.device), uncompiled():
                # Half of a batch is enough, and half the memory.
                images, styles = self.generate(rng, max(1, len(x0) // 2))
                directions = rng.normal(tuple(images.shape[1:]))[: len(images)]
                penalty = self.path_length(path_lengths(images, styles, directions))
            loss = loss + self.path_length_weight * self.path_length_interval * penalty
            logs["path_length"] = penalty.detach()
        return loss, logs

    def generate(self, rng: StepRandom, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) of fresh latents and their styles, the first ``count``."""
        latent = (self.generator.latent_dim,)
        z = rng.normal(latent)[:count]
        layers = [rng.normal(shape)[:count] for shape in self.noise_shapes]
        mixing = None
        if self.mixing_probability:
            crossing = draw_crossing(rng.uniform, self.generator.num_ws, self.mixing_probability)
            mixing = rng.normal(latent)[:count], crossing[:count]
        return self.replica("generator")(z, 1.0, _by_layer(layers), mixing=mixing, return_ws=True)

    def judge(self, discriminator: nn.Module, images: Tensor, rng: StepRandom) -> Tensor:
        """Return the logits (B, 1) of images, augmented if asked."""
        if self.augment is not None:
            images = self.augment(images, rng)
        return discriminator(images)

    def judge_real(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Tensor | None]:
        """Return the logits of real images and, where it is due, the R1 penalty."""
        discriminator = self.replica("discriminator")
        if self.r1_gamma == 0 or self.iteration % self.r1_interval != 0:
            return self.judge(discriminator, x0, rng), None
        # A penalty on gradients is differentiated twice: in full precision, and eagerly, since a
        # compiled graph has no second derivative.
        with without_autocast(x0.device), uncompiled():
            x0 = x0.detach().requires_grad_(True)
            logits = self.judge(discriminator, x0, rng)
            return logits, r1_penalty(logits, x0)

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
        """Return the images of z ~ N(0, I), truncated as the model is set."""
        # All of one stream: for small images the number of draws is what takes time.
        shapes = [(self.generator.latent_dim,), *self.noise_shapes]
        counts = [math.prod(shape) for shape in shapes]
        parts = noise.normal(0, (sum(counts),)).split(counts, dim=1)
        z, *layers = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        images = generator(z, self.truncation, _by_layer(layers))
        if callback is not None:
            callback(0, images)
        return images


def _by_layer(layers: list[Tensor]) -> Callable[[int, tuple[int, ...]], Tensor]:
    return lambda index, shape: layers[index]

"""A plain StyleGAN2 (Karras et al., 2020): what SPI-GAN is without its path and its ODE."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddgan.diffusion import SampleNoise
from ddgan.models.adversarial import AdversarialModel
from ddgan.models.augment import AdaptiveAugmentation
from ddgan.models.base import Logs
from ddgan.models.losses import (
    PathLengthPenalty,
    logistic_d_loss,
    logistic_g_loss,
    logit_means,
    path_lengths,
    twice_differentiable,
)
from ddgan.models.rng import StepRandom
from ddgan.networks.stylegan2_generator import draw_crossing
from ddgan.networks.stylegan2_synthesis import noise_shapes
from ddgan.registry import MODELS


class StyleBasedModel(AdversarialModel):
    """What StyleGAN2 and SPI-GAN share: lazy regularizers, adaptive augmentation, truncation."""

    num_evaluations = 1

    def __init__(
        self,
        *networks: dict | nn.Module,
        path_length_weight: float,
        path_length_interval: int,
        truncation: float,
        **kwargs,
    ):
        """Build the networks; further arguments are those of ``AdversarialModel``.

        Every ``path_length_interval`` iterations the path length regularizer is added to the
        generator's loss with ``path_length_weight`` times the interval; a weight of 0 means never.
        """
        super().__init__(*networks, **kwargs)  # type: ignore[arg-type]
        if path_length_interval < 1 or path_length_weight < 0:
            raise ValueError(
                f"path_length_interval is {path_length_interval} and path_length_weight is "
                f"{path_length_weight}; expected path_length_interval >= 1 and "
                "path_length_weight >= 0"
            )
        self.path_length_weight = path_length_weight
        self.path_length_interval = path_length_interval
        self.path_length = PathLengthPenalty() if path_length_weight else None
        self.truncation = truncation

    def update_augmentation(self, real_logits: Tensor) -> Logs:
        """Adapt an adaptive augmentation to the logits of real images; log its probability."""
        if not isinstance(self.augment, AdaptiveAugmentation):
            return {}
        self.augment.update(real_logits.detach())
        return {"augment_p": self.augment.p.clone()}

    def add_path_length(
        self,
        loss: Tensor,
        logs: Logs,
        generate: Callable[[], tuple[Tensor, Tensor]],
        rng: StepRandom,
    ) -> tuple[Tensor, Logs]:
        """Add the path length regularizer where it is due, times its interval, and log it.

        ``generate()`` returns images (N, C, H, W) of the first N samples of a batch, and their
        styles (N, num_ws, w_dim).
        """
        if self.path_length is None or self.iteration % self.path_length_interval != 0:
            return loss, logs
        with twice_differentiable(self.device):
            images, styles = generate()
            noise = rng.normal(tuple(images.shape[1:]))[: len(images)]
            penalty = self.path_length(path_lengths(images, styles, noise))
        loss = loss + self.path_length_weight * self.path_length_interval * penalty
        return loss, {**logs, "path_length": penalty.detach()}


@MODELS.register_module()
class StyleGAN2(StyleBasedModel):
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

        The arguments are those of ``SPIGAN``; in training, the later layers of a sample get the
        style of another latent with ``mixing_probability``.
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
        if not 0 <= mixing_probability <= 1:
            raise ValueError(
                f"mixing_probability is {mixing_probability}; expected a value in [0, 1]"
            )
        self.mixing_probability = mixing_probability
        self.noise_shapes = noise_shapes(self.data_shape[-1])

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Logistic loss, with R1 where it is due, times its interval."""
        with torch.no_grad():
            fake, _ = self.generate(rng)

        def discriminate(images: Tensor) -> Tensor:
            return self.logits(self.ddp("discriminator"), images, rng)

        real_logits, r1 = self.real_logits(discriminate, x0)
        fake_logits = discriminate(fake)
        loss = logistic_d_loss(real_logits, fake_logits).float().mean()
        logs = {
            "d_loss": loss.detach(),
            **logit_means(real_logits, fake_logits),
            **self.update_augmentation(real_logits),
        }
        return self.add_r1(loss, logs, r1, times_interval=True)

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Non-saturating loss, with path lengths where they are due, times their interval."""
        fake, _ = self.generate(rng)
        loss = logistic_g_loss(self.logits(self.discriminator, fake, rng)).float().mean()
        # Half of a batch is enough, and half the memory.
        half = max(1, len(x0) // 2)
        return self.add_path_length(
            loss, {"g_loss": loss.detach()}, lambda: self.generate(rng, half), rng
        )

    def generate(self, rng: StepRandom, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) of fresh latents and their styles, of the first ``count`` samples."""
        latent = (self.generator.latent_dim,)
        z = rng.normal(latent)[:count]
        layers = [rng.normal(shape)[:count] for shape in self.noise_shapes]
        mixing = None
        if self.mixing_probability:
            crossing = draw_crossing(rng.uniform, self.generator.num_ws, self.mixing_probability)
            mixing = rng.normal(latent)[:count], crossing[:count]
        return self.ddp("generator")(z, 1.0, layers, mixing=mixing, return_ws=True)

    def logits(self, discriminator: nn.Module, images: Tensor, rng: StepRandom) -> Tensor:
        """Logits (B, 1) of images, augmented if asked."""
        if self.augment is not None:
            images = self.augment(images, rng)
        return discriminator(images)

    def example_inputs(self, network: str) -> tuple[Tensor | None, ...]:
        """One image, or its latent."""
        if network == "discriminator":
            return (torch.zeros(1, *self.data_shape),)
        return (torch.zeros(1, self.generator.latent_dim),)

    def draw(
        self,
        noise: SampleNoise,
        generator: nn.Module,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Images of z ~ N(0, I), truncated as the model is set."""
        z, *layers = noise.normals(0, [(self.generator.latent_dim,), *self.noise_shapes])
        images = generator(z, self.truncation, layers)
        if callback is not None:
            callback(0, images)
        return images

"""GANs that draw a sample at once: the vanilla GAN and WGAN-GP, baselines of DDGAN's Fig. 6."""

from collections.abc import Callable

import torch
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

from ddgan.diffusion import SampleNoise
from ddgan.errors import ConfigError
from ddgan.models.adversarial import AdversarialModel
from ddgan.models.base import Logs
from ddgan.models.losses import (
    gradient_penalty,
    logistic_d_loss,
    logistic_g_loss,
    logit_means,
    twice_differentiable,
)
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS


@MODELS.register_module()
class GAN(AdversarialModel):
    """The non-saturating GAN of Goodfellow et al. (2014): one update of each network in turn.

    ``generator`` maps latents (N, latent_dim) to samples, ``discriminator`` samples to logits.
    """

    num_evaluations = 1

    def __init__(
        self,
        generator: dict | nn.Module,
        discriminator: dict | nn.Module,
        ema_decay: float = 0.9999,
        ema_warmup: bool = False,
        data_preprocessor: dict | nn.Module | None = None,
    ):
        """Build the networks; the average is described in ``ExponentialMovingAverage``."""
        super().__init__(
            generator,
            discriminator,
            ema_decay=ema_decay,
            ema_warmup=ema_warmup,
            data_preprocessor=data_preprocessor,
        )

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """-log D(x_0) - log(1 - D(G(z))), averaged over the batch."""
        with torch.no_grad():
            fake = self.ddp("generator")(self.latent(rng))
        discriminator = self.ddp("discriminator")
        real_logits, fake_logits = discriminator(x0), discriminator(fake)
        loss = logistic_d_loss(real_logits, fake_logits).float().mean()
        return loss, {"d_loss": loss.detach(), **logit_means(real_logits, fake_logits)}

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """-log D(G(z)) on fresh latents, averaged over the batch."""
        fake = self.ddp("generator")(self.latent(rng))
        loss = logistic_g_loss(self.discriminator(fake)).float().mean()
        return loss, {"g_loss": loss.detach()}

    def latent(self, rng: StepRandom) -> Tensor:
        """z ~ N(0, I) for a train step, (B, latent_dim)."""
        return rng.normal((self.generator.latent_dim,))

    def example_inputs(self, network: str) -> tuple[Tensor | None, ...]:
        """One sample, or its latent."""
        if network == "discriminator":
            return (torch.zeros(1, *self.data_shape),)
        return (torch.zeros(1, self.generator.latent_dim),)

    def draw(
        self,
        noise: SampleNoise,
        generator: nn.Module,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """G(z) of z ~ N(0, I)."""
        x0 = generator(noise.normal(0, (self.generator.latent_dim,)))
        if callback is not None:
            callback(0, x0)
        return x0


@MODELS.register_module()
class WGANGP(GAN):
    """The Wasserstein GAN with gradient penalty (Gulrajani et al., 2017, Algorithm 1).

    The discriminator is their critic. Each iteration updates it, with a batch of its own, and every
    ``critic_steps``-th one, from the first on, the generator as well.
    """

    def __init__(
        self,
        generator: dict | nn.Module,
        discriminator: dict | nn.Module,
        critic_steps: int = 5,
        penalty_weight: float = 10.0,
        ema_decay: float = 0.9999,
        ema_warmup: bool = False,
        data_preprocessor: dict | nn.Module | None = None,
    ):
        """Build the networks; ``penalty_weight`` is λ. The critic must treat samples one by one."""
        super().__init__(generator, discriminator, ema_decay, ema_warmup, data_preprocessor)
        if critic_steps < 1 or penalty_weight < 0:
            raise ValueError(
                f"critic_steps is {critic_steps} and penalty_weight {penalty_weight}; expected "
                "critic_steps >= 1 and penalty_weight >= 0"
            )
        self.critic_steps = critic_steps
        self.penalty_weight = penalty_weight

    def update_networks(self, x0: Tensor, rng: StepRandom, optim: OptimWrapperDict) -> Logs:
        """Update the critic and, where it is due, the generator."""
        if self.iteration % self.critic_steps == 0:
            return super().update_networks(x0, rng, optim)
        return self.update("discriminator", self.discriminator_loss, x0, rng, optim)

    def update(self, name: str, *args) -> Logs:
        """Update one network; raises ConfigError if gradients accumulate over iterations."""
        logs = super().update(name, *args)
        # A window of accumulated gradients is counted in updates of one network alone.
        if self.critic_steps > 1 and name not in self._stepped:
            raise ConfigError(
                f"optim_wrapper.{name}.accumulative_counts is above 1, which does not go with "
                f"critic_steps={self.critic_steps}; expected 1"
            )
        return logs

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """D(G(z)) - D(x_0) with the gradient penalty on lines between the two."""
        with torch.no_grad():
            fake = self.ddp("generator")(self.latent(rng))
        discriminator = self.ddp("discriminator")
        real_logits, fake_logits = discriminator(x0), discriminator(fake)
        loss = (fake_logits - real_logits).float().mean()

        position = rng.uniform().reshape(-1, *([1] * (x0.ndim - 1)))
        with twice_differentiable(x0.device):
            between = torch.lerp(x0, fake.to(x0.dtype), position).requires_grad_(True)
            penalty = gradient_penalty(discriminator(between), between)
        logs = {
            "d_loss": loss.detach(),
            "gradient_penalty": penalty.detach(),
            **logit_means(real_logits, fake_logits),
        }
        return loss + self.penalty_weight * penalty, logs

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """-D(G(z)) on fresh latents, averaged over the batch."""
        fake = self.ddp("generator")(self.latent(rng))
        loss = -self.discriminator(fake).float().mean()
        return loss, {"g_loss": loss.detach()}

"""GANs that draw a sample at once: the vanilla GAN and WGAN-GP, baselines of DDGAN's Fig. 6."""

from collections.abc import Callable, Mapping

import torch
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

from ddgan.diffusion import SampleNoise
from ddgan.errors import ConfigError
from ddgan.models.adversarial import AdversarialModel, Logs, uncompiled, without_autocast
from ddgan.models.losses import non_saturating_loss
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS


class LatentGAN(AdversarialModel):
    """A model whose generator maps a latent (N, latent_dim) to a sample, judged by itself."""

    num_evaluations = 1

    def example_inputs(self, network: str) -> tuple[Tensor | None, ...]:
        """Return one sample, or its latent."""
        if network == "discriminator":
            return (torch.zeros(1, *self.data_shape),)
        return (torch.zeros(1, self.generator.latent_dim),)


@MODELS.register_module()
class GAN(LatentGAN):
    """The non-saturating GAN of Goodfellow et al. (2014): one update of each network in turn.

    ``generator`` maps latents (N, latent_dim) to samples, ``discriminator`` samples to logits.
    """

    def __init__(
        self,
        generator: dict | nn.Module,
        discriminator: dict | nn.Module,
        ema_decay: float = 0.9999,
        ema_warmup: bool = False,
        data_preprocessor: dict | nn.Module | None = None,
    ):
        """Build the networks; the average is described in ``GenerativeModel``."""
        super().__init__(
            generator,
            discriminator,
            ema_decay=ema_decay,
            ema_warmup=ema_warmup,
            data_preprocessor=data_preprocessor,
        )

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return -log D(x_0) - log(1 - D(G(z))), averaged over the batch."""
        with torch.no_grad():
            fake = self.replica("generator")(self.latent(rng))
        discriminator = self.replica("discriminator")
        real_logits, fake_logits = discriminator(x0), discriminator(fake)
        loss = non_saturating_loss(real_logits, real=True) + non_saturating_loss(
            fake_logits, real=False
        )
        loss = loss.float().mean()
        return loss, {"d_loss": loss.detach(), **logit_means(real_logits, fake_logits)}

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return -log D(G(z)) on fresh latents, averaged over the batch."""
        fake = self.replica("generator")(self.latent(rng))
        # The bare discriminator: it gets no gradients here, so there is nothing to synchronise.
        loss = non_saturating_loss(self.discriminator(fake), real=True).float().mean()
        return loss, {"g_loss": loss.detach()}

    def latent(self, rng: StepRandom) -> Tensor:
        """Return z ~ N(0, I) for a train step, (B, latent_dim)."""
        return rng.normal((self.generator.latent_dim,))

    def draw(
        self,
        noise: SampleNoise,
        generator: nn.Module,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Return G(z) of z ~ N(0, I)."""
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
        super().__init__(
            generator,
            discriminator,
            ema_decay=ema_decay,
            ema_warmup=ema_warmup,
            data_preprocessor=data_preprocessor,
        )
        if critic_steps < 1 or penalty_weight < 0:
            raise ValueError(
                f"critic_steps is {critic_steps} and penalty_weight {penalty_weight}; expected "
                "critic_steps >= 1 and penalty_weight >= 0"
            )
        self.generator_interval = critic_steps
        self.penalty_weight = penalty_weight

    def train_step(
        self, data: Mapping[str, Tensor], optim_wrapper: OptimWrapperDict
    ) -> dict[str, Tensor]:
        """Update the critic and, where it is due, the generator with its average."""
        for name, wrapper in optim_wrapper.items():
            # A window of accumulated gradients is counted in updates of one network alone.
            if self.generator_interval > 1 and wrapper._accumulative_counts > 1:
                raise ConfigError(
                    f"optim_wrapper.{name}.accumulative_counts is {wrapper._accumulative_counts}, "
                    f"which does not go with critic_steps={self.generator_interval}; expected 1"
                )
        return super().train_step(data, optim_wrapper)

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return D(G(z)) - D(x_0) with the gradient penalty on lines between the two."""
        with torch.no_grad():
            fake = self.replica("generator")(self.latent(rng))
        discriminator = self.replica("discriminator")
        real_logits, fake_logits = discriminator(x0), discriminator(fake)
        loss = (fake_logits - real_logits).float().mean()

        position = rng.uniform().reshape(-1, *([1] * (x0.ndim - 1)))
        # A penalty on gradients is differentiated twice: in full precision, and eagerly, since a
        # compiled graph has no second derivative.
        with without_autocast(x0.device), uncompiled():
            between = torch.lerp(x0, fake.to(x0.dtype), position).requires_grad_(True)
            penalty = gradient_penalty(discriminator(between), between)
        logs = {
            "d_loss": loss.detach(),
            "gradient_penalty": penalty.detach(),
            **logit_means(real_logits, fake_logits),
        }
        return loss + self.penalty_weight * penalty, logs

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return -D(G(z)) on fresh latents, averaged over the batch."""
        fake = self.replica("generator")(self.latent(rng))
        loss = -self.discriminator(fake).float().mean()
        return loss, {"g_loss": loss.detach()}


def gradient_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Return the mean of (‖d logits / d x‖ - 1)² over samples, differentiable once more.

    ``logits`` come from ``x``, a batch that requires a gradient (Gulrajani et al., 2017, Eq. 3).
    """
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    squared = gradient.float().square().flatten(1).sum(1)
    # The norm has no derivative at 0.
    return ((squared + 1e-12).sqrt() - 1).square().mean()


def logit_means(real: Tensor, fake: Tensor) -> Logs:
    """Return the means of the logits, to be logged."""
    return {
        "real_logit": real.detach().float().mean(),
        "fake_logit": fake.detach().float().mean(),
    }

"""Models that train a generator against a discriminator, one update each per iteration."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

from ddgan.models.base import GenerativeModel, Logs, build
from ddgan.models.losses import logits_with_r1
from ddgan.models.rng import StepRandom


class AdversarialModel(GenerativeModel):
    """A generative model with a discriminator and the two losses that subclasses define."""

    def __init__(
        self,
        generator: dict | nn.Module,
        discriminator: dict | nn.Module,
        r1_gamma: float = 0.0,
        r1_interval: int = 1,
        augment: dict | nn.Module | None = None,
        **kwargs,
    ):
        """Build both networks; further arguments are those of ``GenerativeModel``.

        ``r1_gamma`` is the γ of the R1 regularizer γ/2 E‖∇D‖², which is due in every
        ``r1_interval``-th iteration, or never if γ is 0. ``augment`` transforms all samples that
        the discriminator sees.
        """
        super().__init__(generator, **kwargs)
        if r1_interval < 1 or r1_gamma < 0:
            raise ValueError(
                f"r1_interval is {r1_interval} and r1_gamma is {r1_gamma}; expected "
                "r1_interval >= 1 and r1_gamma >= 0"
            )
        self.discriminator = build(discriminator)
        self.r1_gamma = r1_gamma
        self.r1_interval = r1_interval
        self.augment = None if augment is None else build(augment)

    @abstractmethod
    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Whole loss of the discriminator, for one backward pass, and its logs."""

    @abstractmethod
    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Loss of the generator and its logs."""

    def update_networks(self, x0: Tensor, rng: StepRandom, optim: OptimWrapperDict) -> Logs:
        """Update the discriminator, then the generator, with one batch."""
        logs = self.update("discriminator", self.discriminator_loss, x0, rng, optim)
        with frozen(self.discriminator):
            return logs | self.update("generator", self.generator_loss, x0, rng, optim)

    def real_logits(
        self, discriminate: Callable[[Tensor], Tensor], x: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Logits ``discriminate(x)`` of real samples and, where it is due, their R1 penalty."""
        if self.r1_gamma == 0 or self.iteration % self.r1_interval != 0:
            return discriminate(x), None
        return logits_with_r1(discriminate, x)

    def add_r1(
        self, loss: Tensor, logs: Logs, r1: Tensor | None, times_interval: bool
    ) -> tuple[Tensor, Logs]:
        """Add γ/2 R1 to the loss if it was due (Mescheder et al., 2018), and log it.

        ``times_interval`` multiplies it by ``r1_interval``, so that its weight on average does not
        depend on the interval (Karras et al., 2020, StyleGAN2, App. B).
        """
        if r1 is None:
            return loss, logs
        scale = self.r1_interval if times_interval else 1
        return loss + 0.5 * self.r1_gamma * scale * r1, {**logs, "r1": r1.detach()}


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Freeze the module's parameters; gradients still flow to its input."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

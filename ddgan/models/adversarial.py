"""Models that train a generator against a discriminator, one update each per iteration."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

from ddgan.models.base import GenerativeModel, build
from ddgan.models.rng import StepRandom

Logs = dict[str, Tensor]


class AdversarialModel(GenerativeModel):
    """A generative model with a discriminator and the two losses that subclasses define."""

    # How many updates of the discriminator go with one of the generator.
    generator_interval = 1

    def __init__(self, generator: dict | nn.Module, discriminator: dict | nn.Module, **kwargs):
        """Build both networks; further arguments are those of ``GenerativeModel``."""
        super().__init__(generator, **kwargs)
        self.discriminator = build(discriminator)

    @abstractmethod
    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return the whole loss of the discriminator, for one backward pass, and its logs."""

    @abstractmethod
    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return the loss of the generator and its logs."""

    def train_step(
        self, data: Mapping[str, Tensor], optim_wrapper: OptimWrapperDict
    ) -> dict[str, Tensor]:
        """Update the discriminator and, where it is due, generator and average, with one batch."""
        rng = StepRandom(len(data["x"]), self.device)
        x0 = self.data_preprocessor(data, rng)

        d_optim = optim_wrapper["discriminator"]
        with d_optim.optim_context(self.replica("discriminator")):
            d_loss, logs = self.discriminator_loss(x0, rng)
            d_optim.update_params(d_loss)

        self.images_seen += len(x0) * rng.world_size
        if self.iteration % self.generator_interval == 0:
            g_optim = optim_wrapper["generator"]
            with frozen(self.discriminator), g_optim.optim_context(self.replica("generator")):
                g_loss, g_logs = self.generator_loss(x0, rng)
                g_optim.update_params(g_loss)
            if g_optim.should_update():
                self.update_ema()
            logs = {**logs, **g_logs}
        self.iteration += 1
        return logs

    def compile_networks(self) -> None:
        """Compile generator and discriminator in place."""
        super().compile_networks()
        self.discriminator.compile()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Keep gradients from being computed for the parameters of ``module``, though through it."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def without_autocast(device: torch.device):
    """Return a context in which operations run in the dtype of their inputs."""
    return torch.autocast(device.type, enabled=False)


def uncompiled():
    """Return a context in which compiled modules run eagerly, where torch can switch."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")

"""Denoising diffusion probabilistic models (Ho et al., 2020), sampled by DDPM or DDIM."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

from ddgan.diffusion import Diffusion, SampleNoise, ddim_step, heun_step, sub_steps, time_index
from ddgan.models.base import GenerativeModel, Logs, with_num_steps
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS

SAMPLERS = ("ddpm", "ddim", "heun")
VARIANCES = ("fixedsmall", "fixedlarge")


@MODELS.register_module()
class DDPM(GenerativeModel):
    """A network that predicts the noise in x_t, trained with L_simple (Ho et al., Eq. 14).

    ``generator`` is called with (x_t, t - 1) as DDGAN's, has no latent, and its output must not be
    bounded.
    """

    def __init__(
        self,
        generator: dict | nn.Module,
        diffusion: dict | Diffusion,
        sampler: str = "ddpm",
        sampling_steps: int | None = None,
        spacing: str = "linear",
        eta: float = 0.0,
        variance: str = "fixedsmall",
        clip: bool = False,
        ema_decay: float = 0.9999,
        ema_warmup: bool = False,
        data_preprocessor: dict | nn.Module | None = None,
    ):
        """Build the network and the diffusion, which has the arguments of ``Diffusion``.

        ``sampler`` is ``"ddpm"``, ancestral sampling whose ``variance`` is the posterior's,
        ``"fixedsmall"``, or β_t, ``"fixedlarge"`` (Ho et al., Sec. 3.2); ``"ddim"`` (Song et al.,
        2021) with ``eta``, 0 for deterministic; or ``"heun"``, the probability-flow ODE with two
        evaluations in each step but the last. Each takes ``sampling_steps`` steps, all T by
        default, chosen by ``spacing`` (see ``sub_steps``). ``clip`` bounds the
        predicted x_0 to [-1, 1] in sampling, as images are. ``set_sampler`` changes all this
        after training. The average is described in ``ExponentialMovingAverage``.
        """
        diffusion = Diffusion(**diffusion) if isinstance(diffusion, dict) else diffusion
        super().__init__(
            with_num_steps(generator, diffusion.num_steps),
            ema_decay=ema_decay,
            ema_warmup=ema_warmup,
            data_preprocessor=data_preprocessor,
        )
        if self.generator.latent_dim or getattr(self.generator, "tanh", False):
            raise ValueError(
                f"the generator has latent_dim={self.generator.latent_dim} and a bounded output: "
                f"{getattr(self.generator, 'tanh', False)}; DDPM predicts the noise, with "
                "latent_dim=0 and tanh=False"
            )
        self.diffusion = diffusion
        self.set_sampler(sampler, sampling_steps, spacing, eta, variance)
        self.clip = clip

    def set_sampler(
        self,
        sampler: str,
        sampling_steps: int | None = None,
        spacing: str = "linear",
        eta: float = 0.0,
        variance: str = "fixedsmall",
    ) -> None:
        """Choose how samples are drawn, as the constructor does; training is the same for all."""
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler is {sampler!r}; expected one of {[*SAMPLERS]}")
        if not 0 <= eta <= 1 or (sampler != "ddim" and eta):
            raise ValueError(
                f"eta is {eta}; expected a value in [0, 1] for sampler='ddim', 0 for {sampler!r}, "
                "which has no eta"
            )
        if variance not in VARIANCES:
            raise ValueError(f"variance is {variance!r}; expected one of {[*VARIANCES]}")
        steps = self.diffusion.num_steps
        count = steps if sampling_steps is None else sampling_steps
        self.times = sub_steps(steps, count, spacing)
        # Ancestral sampling is DDIM with η = 1 (Song et al., Sec. 4.1).
        self.eta = 1.0 if sampler == "ddpm" else eta
        self.sampler, self.variance = sampler, variance

    @property
    def num_evaluations(self) -> int:
        """The number of sampling steps; with Heun's method two for each but the last."""
        return 2 * len(self.times) - 1 if self.sampler == "heun" else len(self.times)

    def update_networks(self, x0: Tensor, rng: StepRandom, optim: OptimWrapperDict) -> Logs:
        """Update the network with one batch."""
        return self.update("generator", self.loss, x0, rng, optim)

    def loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """L_simple, the mean squared error of the predicted noise at t ~ U{1, …, T}."""
        t = rng.integers(1, self.diffusion.num_steps)
        eps = rng.normal(tuple(x0.shape[1:]))
        x_t = self.diffusion.q_sample(x0, t, eps)
        loss = F.mse_loss(self.ddp("generator")(x_t, time_index(t, x_t)).float(), eps)
        return loss, {"loss": loss.detach()}

    def example_inputs(self, network: str) -> tuple[Tensor | None, ...]:
        """x_t and the time index of one sample."""
        return torch.zeros(1, *self.data_shape), torch.zeros(1, dtype=torch.int64)

    def draw(
        self,
        noise: SampleNoise,
        generator: nn.Module,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """x_0 from x_T ~ N(0, I) along the sampling steps."""
        x = noise.normal(0, self.data_shape)

        def predict(x_t: Tensor, t: int) -> Tensor:
            return generator(x_t, time_index(t, x_t))

        for t, s in zip(reversed(self.times), [*reversed(self.times[:-1]), 0], strict=True):
            if self.sampler == "heun":
                x = heun_step(self.diffusion, x, predict, t, s, self.clip)
            else:
                # Stream 0 is x_T, stream t the noise of the step from t.
                fresh = noise.normal(t, self.data_shape) if s and self.eta else None
                large = self.variance == "fixedlarge"
                x = ddim_step(
                    self.diffusion, x, predict(x, t), t, s, fresh, self.eta, self.clip, large
                )
            if callback is not None:
                callback(s, x)
        return x

"""Denoising Diffusion GAN (Xiao, Kreis and Vahdat, 2022)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ddgan.diffusion import Diffusion, SampleNoise, ancestral, get_parametrization, time_index
from ddgan.models.adversarial import AdversarialModel
from ddgan.models.base import Logs, with_num_steps
from ddgan.models.losses import logistic_d_loss, logistic_g_loss, logit_means, mean_per_step
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS


@MODELS.register_module()
class DDGAN(AdversarialModel):
    """T conditional GANs in one, each drawing x_{t-1} from x_t (Eqs. 4 to 6 and App. C.2)."""

    def __init__(
        self,
        generator: dict | nn.Module,
        discriminator: dict | nn.Module,
        diffusion: dict | Diffusion,
        parametrization: str = "posterior",
        r1_gamma: float = 0.05,
        r1_interval: int = 1,
        ema_decay: float = 0.9999,
        ema_warmup: bool = False,
        augment: dict | nn.Module | None = None,
        data_preprocessor: dict | nn.Module | None = None,
    ):
        """Build the networks and the diffusion, which has the arguments of ``Diffusion``.

        In every ``r1_interval``-th iteration the loss of the discriminator includes R1 with weight
        γ/2, γ = ``r1_gamma``; the interval does not multiply it, and γ = 0 means never.
        ``augment`` perturbs each x_{t-1}, real or fake, that the discriminator sees; with one step
        this is "one-shot with augmentation" of Table 2.
        """
        diffusion = Diffusion(**diffusion) if isinstance(diffusion, dict) else diffusion
        super().__init__(
            with_num_steps(generator, diffusion.num_steps),
            with_num_steps(discriminator, diffusion.num_steps),
            r1_gamma=r1_gamma,
            r1_interval=r1_interval,
            augment=augment,
            ema_decay=ema_decay,
            ema_warmup=ema_warmup,
            data_preprocessor=data_preprocessor,
        )
        self.diffusion = diffusion
        self.parametrization = get_parametrization(parametrization)

    @property
    def num_evaluations(self) -> int:
        """T, one for each denoising step."""
        return self.diffusion.num_steps

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Logistic loss with R1 on the real x_{t-1} (App. C.2)."""
        t, x_prev, x_t = self.diffuse(x0, rng)
        with torch.no_grad():
            fake_prev = self.denoise(self.ddp("generator"), x_t, t, *self.step_noise(x_t, rng))

        discriminate = partial(self.logits, self.ddp("discriminator"), t=t, x_t=x_t, rng=rng)
        real_logits, r1 = self.real_logits(discriminate, x_prev)
        fake_logits = discriminate(fake_prev)

        per_sample = logistic_d_loss(real_logits, fake_logits).float().flatten()
        loss = per_sample.mean()
        logs = {
            "d_loss": loss.detach(),
            "d_loss_step": mean_per_step(per_sample.detach(), t, self.diffusion.num_steps),
            **logit_means(real_logits, fake_logits),
        }
        return self.add_r1(loss, logs, r1, times_interval=False)

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Non-saturating loss on fresh t, noise and z (App. C.2)."""
        t, _, x_t = self.diffuse(x0, rng)
        fake_prev = self.denoise(self.ddp("generator"), x_t, t, *self.step_noise(x_t, rng))
        # Without DDP: the frozen discriminator has no gradients to synchronise.
        logits = self.logits(self.discriminator, fake_prev, t, x_t, rng)
        loss = logistic_g_loss(logits).float().mean()
        return loss, {"g_loss": loss.detach()}

    def diffuse(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Tensor, Tensor]:
        """Times t ~ U{1, …, T} (B,) and the pairs (x_{t-1}, x_t) ~ q(x_{t-1}, x_t | x_0)."""
        t = rng.integers(1, self.diffusion.num_steps)
        shape = tuple(x0.shape[1:])
        return t, *self.diffusion.q_sample_pair(x0, t, rng.normal(shape), rng.normal(shape))

    def denoise(
        self, generator: nn.Module, x_t: Tensor, t: Tensor | int, z: Tensor | None, noise: Tensor
    ) -> Tensor:
        """x_{t-1} ~ p(x_{t-1} | x_t): the generator, then the posterior (Eq. 6)."""
        output = generator(x_t, time_index(t, x_t), z)
        return self.parametrization.x_prev(self.diffusion, output, x_t, t, noise)

    def step_noise(self, x_t: Tensor, rng: StepRandom) -> tuple[Tensor | None, Tensor]:
        """z and the posterior's noise of one denoising step in training."""
        return self.latent(rng.normal), rng.normal(tuple(x_t.shape[1:]))

    def latent(self, normal: Callable[[tuple[int, ...]], Tensor]) -> Tensor | None:
        """z ~ N(0, I) drawn with ``normal``, or None for a generator without latents."""
        dim = self.generator.latent_dim
        return normal((dim,)) if dim else None

    def logits(
        self, discriminator: nn.Module, x_prev: Tensor, t: Tensor, x_t: Tensor, rng: StepRandom
    ) -> Tensor:
        """Logits (B, 1) of pairs (x_{t-1}, x_t)."""
        if self.augment is not None:
            x_prev = self.augment(x_prev, rng)
        return discriminator(x_prev, time_index(t, x_t), x_t)

    def example_inputs(self, network: str) -> tuple[Tensor | None, ...]:
        """x_t (or x_{t-1}), the time index and z (or x_t) of one sample."""
        x, t = torch.zeros(1, *self.data_shape), torch.zeros(1, dtype=torch.int64)
        if network == "discriminator":
            return x, t, x
        return x, t, self.latent(lambda shape: torch.zeros(1, *shape))

    def draw(
        self,
        noise: SampleNoise,
        generator: nn.Module,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """x_0 by ancestral sampling from x_T ~ N(0, I)."""
        x_T = noise.normal(0, self.data_shape)
        step = partial(self.sampling_step, noise=noise, generator=generator)
        return ancestral(step, x_T, self.diffusion.num_steps, callback=callback)

    def sampling_step(
        self, x_t: Tensor, t: int, noise: SampleNoise, generator: nn.Module
    ) -> Tensor:
        """x_{t-1} of one denoising step, with z and the posterior's noise of streams 2t, 2t + 1."""
        z = self.latent(partial(noise.normal, 2 * t))
        # At t = 1 the posterior has no variance.
        shape = tuple(x_t.shape[1:])
        fresh = noise.normal(2 * t + 1, shape) if t > 1 else torch.zeros_like(x_t)
        return self.denoise(generator, x_t, t, z, fresh)

    @torch.no_grad()
    def draw_x0(self, x_t: Tensor, t: int, seed: int = 0, use_ema: bool = True) -> Tensor:
        """One draw of p(x_0 | x_t) for each (B, …) state at step t (Figs. 8, 14 and 15)."""
        noise = SampleNoise(seed, torch.arange(len(x_t), device=x_t.device))
        generator = self.generator_ema if use_ema else self.generator
        output = generator(x_t, time_index(t, x_t), self.latent(partial(noise.normal, 2 * t)))
        step = partial(self.sampling_step, noise=noise, generator=generator)
        return self.parametrization.x0(self.diffusion, output, x_t, t, step)

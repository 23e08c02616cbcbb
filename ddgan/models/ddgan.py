"""Denoising Diffusion GAN (Xiao, Kreis and Vahdat, 2022)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ddgan.diffusion import Diffusion, SampleNoise, ancestral, get_parametrization, shared_index
from ddgan.models.adversarial import AdversarialModel, Logs, uncompiled, without_autocast
from ddgan.models.base import build, with_num_steps
from ddgan.models.losses import mean_per_step, non_saturating_loss, r1_penalty
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
        """Build the networks and the diffusion.

        ``diffusion`` has the arguments of ``ddgan.diffusion.Diffusion``. ``r1_gamma`` is the γ of
        the R1 regularizer, which is added on every ``r1_interval``-th iteration, unscaled, and
        never if γ is 0. ``augment`` perturbs each x_{t-1}, real or fake, that the discriminator
        sees; with one step, "one-shot with augmentation" of Table 2.
        """
        diffusion = Diffusion(**diffusion) if isinstance(diffusion, dict) else diffusion
        super().__init__(
            with_num_steps(generator, diffusion.num_steps),
            with_num_steps(discriminator, diffusion.num_steps),
            ema_decay=ema_decay,
            ema_warmup=ema_warmup,
            data_preprocessor=data_preprocessor,
        )
        if r1_interval < 1 or r1_gamma < 0:
            raise ValueError(
                f"r1_interval is {r1_interval} and r1_gamma {r1_gamma}; expected r1_interval >= 1 "
                "and r1_gamma >= 0"
            )
        self.diffusion = diffusion
        self.parametrization = get_parametrization(parametrization)
        self.r1_gamma = r1_gamma
        self.r1_interval = r1_interval
        self.augment = None if augment is None else build(augment)

    @property
    def num_evaluations(self) -> int:
        """T, one for each denoising step."""
        return self.diffusion.num_steps

    def discriminator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return the discriminator's loss with R1 on the real x_{t-1} (App. C.2), summed."""
        t, x_prev, x_t = self.diffuse_pair(x0, rng)
        with torch.no_grad():
            fake_prev = self.denoise(self.replica("generator"), x_t, t, rng)

        real_logits, r1 = self.judge_real(x_prev, t, x_t, rng)
        fake_logits = self.judge(self.replica("discriminator"), fake_prev, t, x_t, rng)

        per_sample = non_saturating_loss(real_logits, real=True) + non_saturating_loss(
            fake_logits, real=False
        )
        per_sample = per_sample.float().flatten()
        loss = per_sample.mean()
        logs = {
            "d_loss": loss.detach(),
            "d_loss_step": mean_per_step(per_sample.detach(), t, self.diffusion.num_steps),
            "real_logit": real_logits.detach().float().mean(),
            "fake_logit": fake_logits.detach().float().mean(),
        }
        if r1 is not None:
            loss = loss + 0.5 * self.r1_gamma * r1
            logs["r1"] = r1.detach()
        return loss, logs

    def generator_loss(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Logs]:
        """Return the generator's non-saturating loss on a fresh t, noise and z (App. C.2)."""
        t, _, x_t = self.diffuse_pair(x0, rng)
        fake_prev = self.denoise(self.replica("generator"), x_t, t, rng)
        # The bare discriminator: it gets no gradients here, so there is nothing to synchronise.
        logits = self.judge(self.discriminator, fake_prev, t, x_t, rng)
        loss = non_saturating_loss(logits, real=True).float().mean()
        return loss, {"g_loss": loss.detach()}

    def diffuse_pair(self, x0: Tensor, rng: StepRandom) -> tuple[Tensor, Tensor, Tensor]:
        """Draw t per sample and the pair (x_{t-1}, x_t) of its step; return (t, x_{t-1}, x_t)."""
        t = rng.integers(1, self.diffusion.num_steps)
        shape = tuple(x0.shape[1:])
        pair = self.diffusion.q_sample_pair(x0, t, rng.normal(shape), rng.normal(shape))
        return t, *pair

    def denoise(self, generator: nn.Module, x_t: Tensor, t: Tensor, rng: StepRandom) -> Tensor:
        """Draw x_{t-1} ~ p(x_{t-1} | x_t) (Eq. 6)."""
        output = generator(x_t, t - 1, self.latent(rng.normal))
        noise = rng.normal(tuple(x_t.shape[1:]))
        return self.parametrization.x_prev(self.diffusion, output, x_t, t, noise)

    def judge(
        self, discriminator: nn.Module, x_prev: Tensor, t: Tensor, x_t: Tensor, rng: StepRandom
    ) -> Tensor:
        """Return the logits (B, 1) of pairs (x_{t-1}, x_t)."""
        if self.augment is not None:
            x_prev = self.augment(x_prev, rng)
        return discriminator(x_prev, t - 1, x_t)

    def judge_real(
        self, x_prev: Tensor, t: Tensor, x_t: Tensor, rng: StepRandom
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits of real pairs and, where it is due, the R1 penalty."""
        discriminator = self.replica("discriminator")
        if self.r1_gamma == 0 or self.iteration % self.r1_interval != 0:
            return self.judge(discriminator, x_prev, t, x_t, rng), None
        # A penalty on gradients is differentiated twice: in full precision, and eagerly, since a
        # compiled graph has no second derivative.
        with without_autocast(x_prev.device), uncompiled():
            x_prev = x_prev.detach().requires_grad_(True)
            logits = self.judge(discriminator, x_prev, t, x_t, rng)
            return logits, r1_penalty(logits, x_prev)

    def latent(self, normal: Callable[[tuple[int, ...]], Tensor]) -> Tensor | None:
        """Return z ~ N(0, I) drawn with ``normal``, or None for a generator without latents."""
        dim = self.generator.latent_dim
        return normal((dim,)) if dim else None

    def example_inputs(self, network: str) -> tuple[Tensor | None, ...]:
        """Return x_t (or x_{t-1}), the time index and z (or x_t) of one sample."""
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
        """Return x_0 by ancestral sampling from x_T ~ N(0, I)."""
        num_steps = self.diffusion.num_steps
        step = self.sampling_step(noise, generator)
        return ancestral(step, noise.normal(0, self.data_shape), num_steps, callback=callback)

    def sampling_step(
        self, noise: SampleNoise, generator: nn.Module
    ) -> Callable[[Tensor, int], Tensor]:
        """Return the step (x_t, t) → x_{t-1} that draws z and the posterior's noise by index."""

        def step(x_t: Tensor, step_index: int) -> Tensor:
            t = torch.full((len(noise),), step_index, device=x_t.device)
            # Stream 0 is x_T; each step has a stream for z and one for the posterior.
            z = self.latent(lambda shape: noise.normal(2 * step_index, shape))
            output = generator(x_t, shared_index(step_index - 1, x_t), z)
            posterior_noise = noise.normal(2 * step_index + 1, tuple(x_t.shape[1:]))
            return self.parametrization.x_prev(self.diffusion, output, x_t, t, posterior_noise)

        return step

    @torch.no_grad()
    def draw_x0(self, x_t: Tensor, t: int, seed: int = 0, use_ema: bool = True) -> Tensor:
        """Return one draw of p(x_0 | x_t) for each (B, …) state at step t (Figs. 8, 14 and 15)."""
        noise = SampleNoise(seed, torch.arange(len(x_t), device=x_t.device))
        generator = self.generator_ema if use_ema else self.generator
        if not self.parametrization.predicts_x0:
            return ancestral(self.sampling_step(noise, generator), x_t, t)
        steps = torch.full((len(x_t),), t, device=x_t.device)
        z = self.latent(lambda shape: noise.normal(2 * t, shape))
        output = generator(x_t, shared_index(t - 1, x_t), z)
        return self.parametrization.x0(self.diffusion, output, x_t, steps)

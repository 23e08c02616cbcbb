"""Forward diffusion as augmentation of what a discriminator sees (DDGAN, Sec. 5.2 and App. C.4)."""

from torch import Tensor, nn

from ddgan.diffusion import Diffusion
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS


@MODELS.register_module()
class DiffusionAugmentation(nn.Module):
    """Diffuse each sample to a random time of {0, …, num_steps - 1}.

    The last time, num_steps, is left out: nothing of the data is left there. At 0 a sample stays
    as it is. The diffusion is the variance-preserving one.
    """

    def __init__(self, num_steps: int = 4, beta_min: float = 0.1, beta_max: float = 20.0):
        super().__init__()
        self.diffusion = Diffusion(num_steps, beta_min=beta_min, beta_max=beta_max)

    def forward(self, x: Tensor, rng: StepRandom) -> Tensor:
        """Return perturbed samples (N, …), differentiable with respect to ``x``."""
        t = rng.integers(0, self.diffusion.num_steps - 1)
        return self.diffusion.q_sample(x, t, rng.normal(tuple(x.shape[1:])))

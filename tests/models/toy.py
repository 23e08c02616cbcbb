"""Networks of a few parameters, and a model of them, for tests of the train step."""

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from ddgan.models import DDGAN


class ToyGenerator(nn.Module):
    """x_0 = tanh(a x_t + b z + c t)."""

    data_shape = (2,)

    def __init__(self, latent_dim: int = 2):
        super().__init__()
        self.latent_dim = latent_dim
        self.a = nn.Parameter(torch.tensor(0.3))
        self.b = nn.Parameter(torch.tensor(0.5))
        self.c = nn.Parameter(torch.tensor(0.1))

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor | None = None) -> Tensor:
        assert t.dtype == torch.int64
        z = torch.zeros_like(x_t) if z is None else z
        return torch.tanh(self.a * x_t + self.b * z + self.c * t[:, None])


class ToyDiscriminator(nn.Module):
    """Bilinear logits with a time-dependent offset."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[0.2, -0.4], [0.1, 0.3]]))
        self.v = nn.Parameter(torch.tensor([0.5, -0.2]))
        self.offset = nn.Parameter(torch.tensor([0.1, 0.2, 0.3, 0.4]))

    def forward(self, x_prev: Tensor, t: Tensor, x_t: Tensor) -> Tensor:
        score = (x_prev @ self.w * x_t).sum(1) + (x_prev**2) @ self.v + self.offset[t]
        return score[:, None]


def toy_model(**kwargs) -> DDGAN:
    arguments = {
        "diffusion": {"num_steps": 4},
        "r1_gamma": 0.5,
        "data_preprocessor": {"type": "PointPreprocessor"},
        **kwargs,
    }
    generator = ToyGenerator(arguments.pop("latent_dim", 2))
    return DDGAN(generator, ToyDiscriminator(), **arguments)


def sgd(model: DDGAN, lr: float = 0.1) -> OptimWrapperDict:
    return OptimWrapperDict(
        **{
            name: OptimWrapper(torch.optim.SGD(getattr(model, name).parameters(), lr=lr))
            for name in ("generator", "discriminator")
        }
    )


def batch(n: int = 16, seed: int = 0) -> dict[str, Tensor]:
    return {"x": torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1}

"""SPI-GAN's latents as images: along the path h(0) → h(1), between two z, between two h(1)."""

import torch
from torch import Tensor

from ddgan.diffusion import SampleNoise
from ddgan.errors import UserError
from ddgan.models import SPIGAN, GenerativeModel


@torch.no_grad()
def along_path(model: GenerativeModel, rows: int, points: int, seed: int = 0) -> Tensor:
    """Images of h(t) for ``points`` times from 0 to 1 (SPI-GAN, Figs. 3 and 9).

    (rows, points, C, H, W) uint8, from the averaged generator. Row i follows sample i of ``seed``
    and ends with it.
    """
    model, z, noise = _start(model, rows, points, seed)
    times = torch.linspace(0, 1, points, device=model.device)
    return _render(model, model.generator_ema.latents(z, times)[:-1].transpose(0, 1), noise)


@torch.no_grad()
def between_noise(model: GenerativeModel, rows: int, points: int, seed: int = 0) -> Tensor:
    """Images of z = (1 - a) z' + a z'' for ``points`` a from 0 to 1 (Fig. 10).

    The same shape as ``along_path``. Row i leads from sample i to sample rows + i, with the layer
    noise of the former.
    """
    model, z, noise = _start(model, rows, points, seed, partners=True)
    mixed = _between(z[:rows], z[rows:], points)
    h = model.generator_ema.latents(mixed.flatten(0, 1))[-1]
    return _render(model, h.unflatten(0, (rows, points)), noise)


@torch.no_grad()
def between_latents(model: GenerativeModel, rows: int, points: int, seed: int = 0) -> Tensor:
    """Images of h(1) = (1 - a) h(1)' + a h(1)'' (Fig. 11), as ``between_noise``."""
    model, z, noise = _start(model, rows, points, seed, partners=True)
    h = model.generator_ema.latents(z)[-1]
    return _render(model, _between(h[:rows], h[rows:], points), noise)


def _start(
    model: GenerativeModel, rows: int, points: int, seed: int, partners: bool = False
) -> tuple[SPIGAN, Tensor, list[Tensor]]:
    """The model, z of one sample per row and its partner, and the layer noise per row."""
    if not isinstance(model, SPIGAN):
        raise UserError(
            f"the model is {type(model).__name__}, which has no latent path; expected SPIGAN"
        )
    if rows < 1 or points < 2:
        raise UserError(f"rows is {rows} and points {points}; expected rows >= 1, points >= 2")
    indices = torch.arange(rows * (1 + partners), device=model.device)
    z, layers = model.split_noise(SampleNoise(seed, indices))
    return model, z, [layer[:rows] for layer in layers]


def _between(start: Tensor, stop: Tensor, points: int) -> Tensor:
    """(rows, points, …) equally spaced from ``start`` to ``stop``."""
    a = torch.linspace(0, 1, points, device=start.device)
    return torch.stack([torch.lerp(start, stop, weight) for weight in a], dim=1)


def _render(model: SPIGAN, h: Tensor, noise: list[Tensor]) -> Tensor:
    """Images of latents (rows, points, D), with one layer noise for each row."""
    columns = [model.generator_ema.render(part, noise) for part in h.unbind(1)]
    return torch.stack([model.to_output(images) for images in columns], dim=1)

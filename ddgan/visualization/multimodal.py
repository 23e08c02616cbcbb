"""Several draws of p(x_0 | x_t) for each t, next to x_t: DDGAN's Figs. 8, 14 and 15."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddgan.diffusion import SampleNoise
from ddgan.errors import UserError
from ddgan.models import DDGAN, GenerativeModel
from ddgan.visualization.figure import new_figure, save_figure


@dataclass(frozen=True)
class StepDraws:
    """Draws of p(x_0 | x_t) for each of N examples at each t in {1, …, T}.

    ``x0`` is (N, …), ``x_t`` (T, N, …) and ``draws`` (T, num, N, …): images in [-1, 1], points.
    """

    x0: Tensor
    x_t: Tensor
    draws: Tensor

    def spread(self) -> list[float]:
        """For each t, the standard deviation between draws of the same x_t, on average."""
        return self.draws.var(dim=1).flatten(1).mean(1).sqrt().tolist()


@torch.no_grad()
def draw_each_step(model: GenerativeModel, samples: Tensor, num: int, seed: int = 0) -> StepDraws:
    """Diffuse ``samples`` to each t and draw x_0 again, ``num`` times each, with the average.

    ``samples`` are (N, C, H, W) uint8 images or (N, D) points. The same noise is used for every
    t, so that what changes along t is its share. Raises UserError for a model that is not DDGAN,
    samples of another shape and num below 2.
    """
    if not isinstance(model, DDGAN):
        raise UserError(
            f"the model is {type(model).__name__}, which has no p(x_0 | x_t) to draw from; "
            "expected DDGAN"
        )
    if tuple(samples.shape[1:]) != tuple(model.data_shape) or num < 2:
        raise UserError(
            f"samples have shape {tuple(samples.shape)} and num is {num}; expected (N, "
            f"{', '.join(map(str, model.data_shape))}) and at least 2 draws, to compare them"
        )
    x0 = samples.to(model.device).float()
    if samples.dtype == torch.uint8:
        x0 = x0 / 127.5 - 1
    n, steps = len(x0), model.diffusion.num_steps
    noise = SampleNoise(seed, torch.arange(n, device=model.device)).normal(0, model.data_shape)
    states, draws = [], []
    for t in range(1, steps + 1):
        x_t = model.diffusion.q_sample(x0, torch.full((n,), t, device=model.device), noise)
        # One batch of all draws: sample i of the batch has the latent of index i.
        drawn = model.draw_x0(x_t.repeat(num, *[1] * (x_t.ndim - 1)), t, seed + 1)
        states.append(x_t)
        draws.append(drawn.unflatten(0, (num, n)))
    return StepDraws(x0, torch.stack(states), torch.stack(draws))


def plot_multimodal(
    model: GenerativeModel, samples: Tensor, num: int, path: str | Path, seed: int = 0
) -> None:
    """Draw ``draw_each_step`` as a PNG: the data, then a column for each t, x_t above its draws.

    For images each of the N examples is a block of 1 + num rows; points are scattered.
    """
    drawn = draw_each_step(model, samples, num, seed)
    figure = _points(drawn) if samples.ndim == 2 else _images(drawn)
    save_figure(figure, path)


def _titles(drawn: StepDraws) -> list[str]:
    return [f"t = {t}\nspread {s:.2f}" for t, s in enumerate(drawn.spread(), 1)]


def _images(drawn: StepDraws):
    steps, num, n = drawn.draws.shape[:3]
    figure = new_figure(1.15 * (steps + 1) + 0.9, n * 1.15 * (num + 1) + 0.9, dpi=110)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for example, part in enumerate(figure.subfigures(n, 1, squeeze=False)[:, 0]):
        grid = part.subplots(num + 1, steps + 1, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        _show(grid[0, 0], drawn.x0[example])
        grid[0, 0].set_title("$x_0$, data" if example == 0 else "", fontsize=10)
        grid[0, 1].set_ylabel("$x_t$", fontsize=10)
        for t, title in enumerate(_titles(drawn)):
            _show(grid[0, t + 1], drawn.x_t[t, example])
            grid[0, t + 1].set_title(title if example == 0 else "", fontsize=10)
            for i in range(num):
                _show(grid[i + 1, t + 1], drawn.draws[t, i, example])
                grid[i + 1, 1].set_ylabel(f"draw {i + 1}", fontsize=9)
    return figure


def _show(axes, image: Tensor) -> None:
    pixels = (image.float().cpu().permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1)
    # One channel is grey.
    axes.imshow(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels)


def _points(drawn: StepDraws):
    steps, _, n = drawn.draws.shape[:3]
    figure = new_figure(3.1 * steps, 3.7, dpi=110)
    row = figure.subplots(1, steps, sharex=True, sharey=True, squeeze=False)[0]
    reach = 1.15 * float(torch.cat([drawn.x0, *drawn.x_t]).abs().max())
    for t, (axes, title) in enumerate(zip(row, _titles(drawn), strict=True)):
        for i in range(n):
            colour = f"C{i % 10}"
            axes.scatter(*drawn.draws[t, :, i, :2].cpu().T, s=5, alpha=0.5, lw=0, color=colour)
            axes.plot(*drawn.x_t[t, i, :2].cpu(), "o", ms=8, mfc="white", color=colour)
            axes.plot(*drawn.x0[i, :2].cpu(), "x", ms=9, mew=2, color=colour)
        axes.set(title=title, aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
    row[0].plot([], [], "x", mew=2, color="0.3", label="$x_0$, data")
    row[0].plot([], [], "o", mfc="white", color="0.3", label="$x_t$")
    row[0].plot([], [], ".", color="0.3", label="draws of $p(x_0|x_t)$")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure

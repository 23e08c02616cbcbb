"""Large denoising steps need a multimodal model: DDGAN's Fig. 2, computed exactly."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ddgan.diffusion import Diffusion
from ddgan.visualization.figure import new_figure, save_figure
from ddgan.visualization.mixture import GaussianMixture

DATA, TRUE, NORMAL, POINT = "0.45", "#1b6ca8", "#e4572e", "#111111"
# Unequal modes of unit variance in all, and a diffusion mild enough that x_T tells something of
# x_0: at the usual noise every large step would lead to the whole of the data.
EXAMPLE = GaussianMixture(
    torch.tensor([0.3, 0.25, 0.45]),
    torch.tensor([[-1.35], [-0.05], [1.0]]),
    torch.tensor([0.04, 0.02, 0.03]),
)
BETAS = {"beta_min": 0.1, "beta_max": 2.0}


def plot_denoising(
    path: str | Path,
    x_t: float = 0.4,
    num_steps: int = 5,
    data: GaussianMixture = EXAMPLE,
) -> None:
    """Draw how 1-D data diffuse, and q(x_s | x_T = ``x_t``) for every s < T = ``num_steps``.

    Columns are times. The top row shows the data's q(x_s), the bottom row the true denoising
    distribution next to the Gaussian of its mean and variance.
    """
    alpha_bar = Diffusion(num_steps, dtype=torch.float64, **BETAS).alpha_bar.tolist()
    x = torch.linspace(-3.2, 3.2, 1201, dtype=torch.float64)
    figure = new_figure(2.35 * (num_steps + 1), 5.2, dpi=110)
    figure.suptitle(
        "A small denoising step is nearly Gaussian, a large one is not", fontsize=14, y=1.04
    )
    top, bottom = figure.subplots(2, num_steps + 1, sharex=True)
    for s, axes in enumerate(top):
        density = data.diffused(alpha_bar[s]).density(x[:, None])
        _fill(axes, x, density, DATA)
        axes.set_title(f"$q(x_{{{s}}})$" + (", data" if s == 0 else ""))
    top[-1].axvline(x_t, color=POINT, linewidth=1.2, linestyle=":")
    top[-1].annotate(
        f"$x_{{{num_steps}}}$ = {x_t:g}",
        (x_t, 0.93),
        xycoords=("data", "axes fraction"),
        xytext=(6, 0),
        textcoords="offset points",
        fontsize=10,
    )
    for s, axes in enumerate(bottom[:-1]):
        true = data.denoising(torch.tensor([x_t]), alpha_bar[s], alpha_bar[num_steps])
        _fill(axes, x, true.density(x[:, None]), TRUE, "true")
        mean, variance = true.mean_and_variance()
        normal = GaussianMixture(torch.ones(1), mean[None], variance)
        axes.plot(x, normal.density(x[:, None]), color=NORMAL, linestyle="--", label="Gaussian")
        steps = num_steps - s
        axes.set_title(f"$q(x_{{{s}}} \\mid x_{{{num_steps}}})$, {steps} step{'s'[: steps > 1]}")
        axes.axvline(x_t, color=POINT, linewidth=1, linestyle=":")
        axes.set_xlabel(f"$x_{{{s}}}$")
    bottom[-1].axis("off")
    bottom[-1].legend(
        *bottom[0].get_legend_handles_labels(),
        loc="center",
        frameon=False,
        title="denoising distribution",
        fontsize=10,
    )
    top[0].set_ylabel("density of the data")
    bottom[0].set_ylabel(f"density given $x_{{{num_steps}}}$")
    for axes in (*top, *bottom):
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
    save_figure(figure, path, bbox_inches="tight")


def _fill(axes, x: Sequence[float], y: Sequence[float], colour: str, label: str = "") -> None:
    axes.plot(x, y, color=colour, linewidth=1.6, label=label or None)
    axes.fill_between(x, y, color=colour, alpha=0.25, linewidth=0)

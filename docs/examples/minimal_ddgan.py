"""DDGAN on 25 Gaussians in one file: train, sample, draw a PNG. About a minute on one CPU core.

    python docs/examples/minimal_ddgan.py --out gaussians.png

Xiao, Kreis and Vahdat, "Tackling the generative learning trilemma with denoising diffusion GANs",
2022; equations and sections are the paper's.
"""

import argparse
import copy
import itertools

import torch
from torch import Tensor, nn

from ddgan.diffusion import Diffusion, ancestral, time_index
from ddgan.models.losses import logistic_d_loss, logistic_g_loss
from ddgan.networks import MLPDiscriminator, MLPGenerator

T = 4  # denoising steps
LATENT_DIM = 2


def data(n: int) -> Tensor:
    """Points (n, 2) of 25 Gaussians of standard deviation 0.05 on a grid of spacing 1."""
    centres = torch.tensor([*itertools.product(range(-2, 3), repeat=2)], dtype=torch.float32)
    return centres[torch.randint(25, (n,))] + 0.05 * torch.randn(n, 2)


def denoise(diffusion: Diffusion, generator: nn.Module, x_t: Tensor, t: Tensor | int) -> Tensor:
    """x_{t-1} ~ p(x_{t-1} | x_t): predict x_0 from x_t and z, then draw the posterior (Eq. 6)."""
    z = torch.randn(len(x_t), LATENT_DIM)
    x0 = generator(x_t, time_index(t, x_t), z)
    return diffusion.posterior_sample(x0, x_t, t, torch.randn_like(x_t))


def diffuse(diffusion: Diffusion, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Times t, and pairs of real x_{t-1} and x_t (Eqs. 7 and 8)."""
    t = torch.randint(1, T + 1, (len(x0),))
    return t, *diffusion.q_sample_pair(x0, t, torch.randn_like(x0), torch.randn_like(x0))


def train(iterations: int, batch_size: int) -> tuple[Diffusion, nn.Module]:
    """Train with the losses of App. C.2; return the process and the averaged generator."""
    diffusion = Diffusion(T)
    generator = MLPGenerator(T, latent_dim=LATENT_DIM, hidden_dim=128)
    discriminator = MLPDiscriminator(T, hidden_dim=128)
    average = copy.deepcopy(generator)
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.9))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, betas=(0.5, 0.9))

    for iteration in range(iterations):
        x0 = data(batch_size)

        # The discriminator tells real x_{t-1} from generated ones, given x_t and t.
        t, x_prev, x_t = diffuse(diffusion, x0)
        with torch.no_grad():
            fake_prev = denoise(diffusion, generator, x_t, t)
        # On images, add R1 (``logits_with_r1``); it would blur modes as narrow as these.
        real_logits = discriminator(x_prev, time_index(t, x_t), x_t)
        fake_logits = discriminator(fake_prev, time_index(t, x_t), x_t)
        d_loss = logistic_d_loss(real_logits, fake_logits).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

        # The generator, on fresh times and noise.
        t, _, x_t = diffuse(diffusion, x0)
        fake_prev = denoise(diffusion, generator, x_t, t)
        g_loss = logistic_g_loss(discriminator(fake_prev, time_index(t, x_t), x_t)).mean()
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()

        with torch.no_grad():
            decay = min(0.995, (1 + iteration) / (10 + iteration))
            for to, of in zip(average.parameters(), generator.parameters(), strict=True):
                to.lerp_(of, 1 - decay)
        if (iteration + 1) % 1000 == 0:
            print(f"{iteration + 1}: d_loss {d_loss:.3f}, g_loss {g_loss:.3f}", flush=True)
    return diffusion, average


@torch.no_grad()
def sample(diffusion: Diffusion, generator: nn.Module, n: int) -> Tensor:
    """Points (n, 2): T denoising steps from x_T ~ N(0, I)."""
    return ancestral(lambda x_t, t: denoise(diffusion, generator, x_t, t), torch.randn(n, 2), T)


def main() -> None:
    """Train, sample, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=9000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--out", default="gaussians.png")
    args = parser.parse_args()
    torch.manual_seed(0)
    diffusion, generator = train(args.iterations, args.batch_size)
    points = sample(diffusion, generator, 4000)

    distance = (points - points.round().clamp(-2, 2)).norm(dim=1)
    near = distance < 0.2  # four standard deviations; 12.6% of a uniform spread would be as near
    modes = points[near].round().clamp(-2, 2).unique(dim=0)
    print(f"{len(modes)} of 25 modes; {near.float().mean():.1%} of samples near one")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    for axes, title, xy in zip(
        figure.subplots(1, 2), ("data", "DDGAN, 4 steps"), (data(4000), points), strict=True
    ):
        axes.scatter(*xy.T, s=1)
        axes.set(title=title, xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    figure.savefig(args.out)


if __name__ == "__main__":
    main()

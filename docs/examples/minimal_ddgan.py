"""DDGAN on the 8 x 8 digits of scikit-learn in one file: train, sample, draw a PNG.

54 seconds on one CPU core (4,000 iterations); most samples read as digits.

    python docs/examples/minimal_ddgan.py --out digits.png

Xiao, Kreis and Vahdat, "Tackling the generative learning trilemma with denoising diffusion GANs",
2022; equations and sections are the paper's.
"""

import argparse
import copy
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ddgan.diffusion import Diffusion, ancestral, time_index
from ddgan.models.losses import logistic_d_loss, logistic_g_loss, logits_with_r1
from ddgan.networks import MLPDiscriminator, MLPGenerator

T = 4  # denoising steps
SHAPE = (1, 8, 8)
LATENT_DIM = 16


def load_data() -> Tensor:
    """The 1797 digits (N, 1, 8, 8), grey levels in [-1, 1]."""
    return torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1


def diffuse(diffusion: Diffusion, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Times t, and pairs of real x_{t-1} and x_t (Eqs. 7 and 8)."""
    t = torch.randint(1, T + 1, (len(x0),))
    return t, *diffusion.q_sample_pair(x0, t, torch.randn_like(x0), torch.randn_like(x0))


def denoise(diffusion: Diffusion, generator: nn.Module, x_t: Tensor, t: Tensor | int) -> Tensor:
    """x_{t-1} ~ p(x_{t-1} | x_t): predict x_0 from x_t and z, then draw the posterior (Eq. 6)."""
    z = torch.randn(len(x_t), LATENT_DIM)
    x0 = generator(x_t, time_index(t, x_t), z)
    return diffusion.posterior_sample(x0, x_t, t, torch.randn_like(x_t))


def train(data: Tensor, iterations: int, batch_size: int) -> tuple[Diffusion, nn.Module]:
    """Train with the losses of App. C.2; return the process and the averaged generator."""
    diffusion = Diffusion(T)
    generator = MLPGenerator(T, SHAPE, latent_dim=LATENT_DIM, hidden_dim=256, tanh=True)
    discriminator = MLPDiscriminator(T, SHAPE, hidden_dim=256, num_layers=4, stddev_group=128)
    average = copy.deepcopy(generator)
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.99))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, betas=(0.5, 0.99))

    for iteration in range(iterations):
        x0 = data[torch.randint(len(data), (batch_size,))]

        # The discriminator tells real x_{t-1} from generated ones, given x_t and t.
        t, x_prev, x_t = diffuse(diffusion, x0)
        with torch.no_grad():
            fake_prev = denoise(diffusion, generator, x_t, t)
        logits = partial(discriminator, t=time_index(t, x_t), x_t=x_t)
        r1 = torch.zeros(())
        if iteration % 4 == 0:  # R1 in every fourth iteration keeps its cost low
            real_logits, r1 = logits_with_r1(logits, x_prev)
        else:
            real_logits = logits(x_prev)
        d_loss = logistic_d_loss(real_logits, logits(fake_prev)).mean()
        d_optimizer.zero_grad()
        (d_loss + 0.5 / 2 * r1).backward()  # γ/2 R1, γ = 0.5
        d_optimizer.step()

        # The generator, on fresh times and noise.
        t, _, x_t = diffuse(diffusion, x0)
        fake_prev = denoise(diffusion, generator, x_t, t)
        g_loss = logistic_g_loss(discriminator(fake_prev, time_index(t, x_t), x_t)).mean()
        g_optimizer.zero_grad()
        g_loss.backward()
        g_optimizer.step()

        with torch.no_grad():
            decay = min(0.999, (1 + iteration) / (10 + iteration))
            for to, of in zip(average.parameters(), generator.parameters(), strict=True):
                to.lerp_(of, 1 - decay)
        if (iteration + 1) % 500 == 0:
            print(f"{iteration + 1}: d_loss {d_loss:.3f}, g_loss {g_loss:.3f}", flush=True)
    return diffusion, average


@torch.no_grad()
def sample(diffusion: Diffusion, generator: nn.Module, n: int) -> Tensor:
    """Images (n, 1, 8, 8): T denoising steps from x_T ~ N(0, I)."""
    step = partial(denoise, diffusion, generator)
    return ancestral(step, torch.randn(n, *SHAPE), T)


def nearest(images: Tensor, data: Tensor) -> float:
    """Mean distance of images to their nearest digit; 2.05 for each digit among the others."""
    return torch.cdist(images.flatten(1), data.flatten(1)).amin(1).mean().item()


def save(images: Tensor, path: str, columns: int = 16, zoom: int = 6) -> None:
    """Write images (N, 1, 8, 8) as one PNG, in rows of ``columns``."""
    cells = F.pad(images[:, 0], (1, 1, 1, 1), value=-1).unflatten(0, (-1, columns))
    grey = cells.transpose(1, 2).flatten(2).flatten(0, 1).add(1).mul(127.5).round().byte()
    image = Image.fromarray(grey.numpy())
    image.resize((zoom * image.width, zoom * image.height), Image.Resampling.BICUBIC).save(path)


def main() -> None:
    """Train, sample, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--out", default="digits.png")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = load_data()
    diffusion, generator = train(data, args.iterations, args.batch_size)
    images = sample(diffusion, generator, 500)
    print(f"mean distance of samples to the nearest digit: {nearest(images, data):.2f}")
    save(images[:128], args.out)


if __name__ == "__main__":
    main()

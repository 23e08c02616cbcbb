"""The papers' figures that are computed: what is drawn, and the tool that draws it."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan.diffusion import StraightPath
from ddgan.errors import UserError
from ddgan.models import DDGAN
from ddgan.networks import MLPDiscriminator, MLPGenerator
from ddgan.visualization import both_paths, draw_each_step
from ddgan.visualization.denoising import BETAS, EXAMPLE
from ddgan.visualization.paths import LINE, PLANE, path_lengths_of


def model(latent_dim=2, shape=(3, 8, 8), **kwargs):
    torch.manual_seed(0)
    networks = (
        MLPGenerator(4, shape, latent_dim=latent_dim, hidden_dim=16),
        MLPDiscriminator(4, shape, hidden_dim=16),
    )
    return DDGAN(*networks, diffusion={"num_steps": 4}, **kwargs)


def assert_image(path, width, height):
    with Image.open(path) as image:
        assert image.size[0] > width
        assert image.size[1] > height
        pixels = np.asarray(image.convert("L"))
    assert 0.005 < (pixels < 200).mean() < 0.9


def test_larger_steps_are_farther_from_gaussian():
    """The point of Fig. 2: the example's distance from the Gaussian of its moments grows."""
    from ddgan.diffusion import Diffusion
    from ddgan.visualization.mixture import GaussianMixture

    alpha_bar = Diffusion(5, dtype=torch.float64, **BETAS).alpha_bar.tolist()
    x = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
    gaps, modes = [], []
    for s in reversed(range(5)):
        true = EXAMPLE.denoising(torch.tensor([0.4]), alpha_bar[s], alpha_bar[5])
        density = true.density(x)
        mean, variance = true.mean_and_variance()
        normal = GaussianMixture(torch.ones(1), mean[None], variance).density(x)
        gaps.append(0.5 * torch.trapezoid((density - normal).abs(), x[:, 0]).item())
        modes.append(int(((density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])).sum()))
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.06
    assert gaps[-1] > 0.3
    assert (modes[0], modes[-1]) == (1, 3)


def test_both_paths_share_their_ends_and_one_is_straight():
    winding, straight = both_paths(PLANE, 6, seed=1, num_steps=100)
    assert winding.shape == straight.shape == (101, 6, 2)
    torch.testing.assert_close(straight[0], winding[0])
    torch.testing.assert_close(straight[-1], winding[-1])
    torch.testing.assert_close(path_lengths_of(straight), (winding[-1] - winding[0]).norm(dim=1))
    assert (path_lengths_of(winding) > 5 * path_lengths_of(straight)).all()
    middle = StraightPath().interpolate(winding[-1], winding[0], 0.5)
    torch.testing.assert_close(straight[50], middle)
    # Paths end in the data, within a few deviations of a mode.
    distance = torch.cdist(winding[-1], PLANE.means.double()).min(1).values
    assert distance.max() < 0.5


def test_the_straight_path_is_clear_sooner():
    """At 3/4 of the way the data's share of x is larger on the straight path (Sec. 3.3)."""
    winding, straight = both_paths(LINE, 400, seed=0, num_steps=200)
    correlations = [
        torch.corrcoef(torch.stack([path[150, :, 0], path[-1, :, 0]]))[0, 1]
        for path in (winding, straight)
    ]
    assert correlations[0] < correlations[1]


def test_draws_differ_by_the_latent_alone():
    samples = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    drawn = draw_each_step(model(), samples, num=5)
    assert drawn.draws.shape == (4, 5, 2, 3, 8, 8)
    assert drawn.x_t.shape == (4, 2, 3, 8, 8)
    torch.testing.assert_close(drawn.x0, samples / 127.5 - 1)
    assert min(drawn.spread()) > 1e-4
    assert max(draw_each_step(model(latent_dim=0), samples, num=5).spread()) < 1e-6


def test_one_noise_for_all_steps():
    network = model()
    drawn = draw_each_step(network, torch.full((2, 3, 8, 8), 255, dtype=torch.uint8), num=2)
    noise = [
        (x_t - a * drawn.x0) / s
        for x_t, a, s in zip(
            drawn.x_t,
            network.diffusion.sqrt_alpha_bar[1:],
            network.diffusion.sqrt_one_minus_alpha_bar[1:],
            strict=True,
        )
    ]
    for other in noise[1:]:
        torch.testing.assert_close(other, noise[0], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_drawn_is_refused():
    samples = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match="at least 2 draws"):
        draw_each_step(model(), samples, num=1)
    with pytest.raises(UserError, match=r"expected \(N, 3, 8, 8\)"):
        draw_each_step(model(), samples[:, :, :4], num=2)
    with pytest.raises(UserError, match=r"the model is Identity.*expected DDGAN"):
        draw_each_step(torch.nn.Identity(), samples, num=2)


@pytest.mark.parametrize(
    ("arguments", "size"),
    [(("denoising-1d", "--steps", "4"), (800, 400)), (("paths", "--num", "3"), (900, 900))],
    ids=lambda value: str(value[0]),
)
def test_the_tool_draws_without_a_checkpoint(call_tool, tmp_path, arguments, size):
    out = tmp_path / "new" / "figure.png"
    status, output = call_tool("visualize", *arguments, "--out", out)
    assert (status, output) == (0, f"wrote {out}\n")
    assert_image(out, *size)


@pytest.mark.parametrize(("name", "flag"), [("images", ()), ("points", ("--from-samples",))])
def test_the_tool_draws_what_a_checkpoint_makes_of_data(call_tool, tmp_path, trained, name, flag):
    (checkpoint,) = sorted(trained(name).glob("iter_*.pth"))[-1:]
    out = tmp_path / "figure.png"
    arguments = (checkpoint, "--examples", "2", "--num", "3", "--out", out, *flag)
    status, output = call_tool("visualize", "multimodal", *arguments)
    assert (status, output) == (0, f"wrote {out}\n")
    assert_image(out, 500, 300)


def test_the_tool_names_what_is_wrong(call_tool, tmp_path, trained):
    checkpoint = trained("points") / "iter_6.pth"
    for extra, message in (
        (("--examples", "0"), "--examples is 0; expected at least 1"),
        (("--num", "1"), "at least 2 draws"),
    ):
        arguments = ("multimodal", checkpoint, *extra, "--out", tmp_path / "a.png")
        status, output = call_tool("visualize", *arguments)
        assert status == 1
        assert message in output

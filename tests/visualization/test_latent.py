"""Images along SPI-GAN's latent paths."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddgan.diffusion import SampleNoise
from ddgan.errors import UserError
from ddgan.models import SPIGAN
from ddgan.networks import NeuralODEMapping, SPIGANGenerator, StyleGAN2Generator
from ddgan.visualization import along_path, between_latents, between_noise, save_rows

STUDIES = [along_path, between_noise, between_latents]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    synthesis = StyleGAN2Generator(
        image_size=8, latent_dim=8, w_dim=8, num_mapping_layers=0, channel_base=32
    )
    torch.nn.init.constant_(synthesis.synthesis.layer.noise.strength, 0.5)
    generator = SPIGANGenerator(NeuralODEMapping(8, 8, 2, 1.0, num_steps=2), synthesis)
    return SPIGAN(generator, torch.nn.Linear(1, 1)).eval()


def assert_same_images(a, b):
    # Batches of another size may round a level differently.
    assert (a.int() - b.int()).abs().max() <= 1


@pytest.mark.parametrize("study", STUDIES)
def test_rows_begin_and_end_with_samples(model, study):
    images = study(model, 3, 5, seed=4)
    assert (images.shape, images.dtype) == ((3, 5, 3, 8, 8), torch.uint8)
    first = 0 if study is not along_path else -1
    assert_same_images(images[:, first], model.sample(3, seed=4))
    steps = images.float().diff(dim=1).abs().mean((2, 3, 4))
    assert (steps > 0).all()
    assert not torch.equal(study(model, 3, 5, seed=5), images)


def test_the_path_is_that_of_h(model):
    images = along_path(model, 2, 3, seed=1)
    z, noise = model.split_noise(SampleNoise(1, torch.arange(2)))
    G = model.generator_ema
    with torch.no_grad():
        h0 = G.embedding(z)
        half = G.mapping(h0, torch.tensor([0.5]))[0]
        for column, h in ((0, h0), (1, half)):
            expected = model.to_output(G.render(h, noise))
            assert_same_images(images[:, column], expected)


def test_interpolations_are_linear(model):
    z, noise = model.split_noise(SampleNoise(0, torch.arange(4)))
    noise = [layer[:2] for layer in noise]
    G = model.generator_ema
    with torch.no_grad():
        middle = G.latents((z[:2] + z[2:]) / 2)[-1]
        assert_same_images(
            between_noise(model, 2, 3)[:, 1], model.to_output(G.render(middle, noise))
        )
        h = G.latents(z)[-1]
        middle = 0.75 * h[:2] + 0.25 * h[2:]
        assert_same_images(
            between_latents(model, 2, 5)[:, 1], model.to_output(G.render(middle, noise))
        )


def test_rows_become_one_image(tmp_path):
    images = torch.arange(6, dtype=torch.uint8).reshape(2, 3, 1, 1, 1) * 40
    save_rows(images.expand(2, 3, 3, 32, 32), tmp_path / "new" / "a.png")
    grid = np.asarray(Image.open(tmp_path / "new" / "a.png"))
    assert grid.shape == (2 * 34 - 2, 3 * 34 - 2, 3)
    assert [grid[5, 34 * i + 5, 0] for i in range(3)] == [0, 40, 80]
    assert grid[40, 5, 0] == 120


@pytest.mark.parametrize("study", STUDIES)
def test_other_models_and_sizes_are_refused(model, study):
    with pytest.raises(UserError, match="points 1; expected rows >= 1, points >= 2"):
        study(model, 1, 1)

    class Other:
        pass

    with pytest.raises(UserError, match="the model is Other, which has no latent path"):
        study(Other(), 1, 2)

"""Editing against closed forms for Gaussian data, and its invariances."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ddgan.apis import edit, inpaint, interpolate, load_model, read_image
from ddgan.diffusion import Diffusion, SampleNoise
from ddgan.editing import InterpolatedNoise
from ddgan.errors import UserError
from ddgan.models import DDGAN

SIZE = 8
T = 4


class Calls(nn.Module):
    """A generator that records what it is called with."""

    data_shape = (3, SIZE, SIZE)
    latent_dim = 3 * SIZE * SIZE

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.diffusion = Diffusion(T)
        self.calls = []

    def forward(self, x_t, t, z):
        self.calls.append((x_t, int(t[0]) + 1, self.training))
        return self.x0(x_t, t, z.view_as(x_t))


class FreePixels(Calls):
    """The exact p(x_0 | x_t) where pixels are independent, x_0 ~ N(0, s²)."""

    s2 = 0.3**2

    def x0(self, x_t, t, z):
        a = self.diffusion.alpha_bar[int(t[0]) + 1]
        total = self.s2 * a + 1 - a
        return self.s2 * a.sqrt() / total * x_t + (self.s2 * (1 - a) / total).sqrt() * z


class EqualPixels(FreePixels):
    """The exact p(x_0 | x_t) where all pixels of an image are one number c ~ N(0, s²)."""

    def x0(self, x_t, t, z):
        a = self.diffusion.alpha_bar[int(t[0]) + 1]
        n = x_t[0].numel()
        precision = 1 / self.s2 + n * a / (1 - a)
        mean = a.sqrt() / (1 - a) * x_t.sum((1, 2, 3), keepdim=True) / precision
        return (mean + z[:, :1, :1, :1] / precision.sqrt()).expand_as(x_t)


class FreePoints(FreePixels):
    data_shape = (2,)


def model_of(generator, **kwargs):
    model = DDGAN(generator, nn.Linear(1, 1), {"num_steps": T}, **kwargs)
    model.calls = model.generator_ema.calls
    return model


@pytest.fixture(scope="module")
def model(lively):
    return load_model(lively, device="cpu")


@pytest.fixture(scope="module")
def image():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


@pytest.fixture
def mask():
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[:, 3:] = True
    return mask


def distance(a, b):
    return int((a.int() - b.int()).abs().max())


@pytest.mark.parametrize("t", range(1, T + 1))
def test_results_are_draws_of_the_posterior(t):
    # With the exact p(x_0 | x_t), x_0 → x_t → x_0' is Gaussian around k √ᾱ x_0.
    model = model_of(FreePixels())
    level = 200
    results = edit(model, torch.full((3, SIZE, SIZE), level, dtype=torch.uint8), t, num=200)
    a, s2 = float(model.diffusion.alpha_bar[t]), FreePixels.s2
    k = s2 * math.sqrt(a) / (s2 * a + 1 - a)
    mean = k * math.sqrt(a) * (level / 127.5 - 1)
    variance = k**2 * (1 - a) + s2 * (1 - a) / (s2 * a + 1 - a)
    values = results.double().div(127.5).sub(1)
    count = values.numel()
    assert abs(float(values.mean()) - mean) < 5 * math.sqrt(variance / count)
    assert float(values.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / count))
    assert [step for _, step, _ in model.calls] == [*range(t, 0, -1)] * 2


@pytest.mark.parametrize("parametrization", ["posterior", "direct", "noise"])
def test_steps_are_those_of_the_parametrization(parametrization, image):
    model = model_of(FreePixels(), parametrization=parametrization)
    result = edit(model, image, 2, num=3, seed=5, first_index=4)
    d, G = model.diffusion, FreePixels()
    noise = SampleNoise(5, torch.arange(4, 7))
    shape = (3, SIZE, SIZE)
    x = d.alpha_bar[2].sqrt() * (image / 127.5 - 1)
    x = x + (1 - d.alpha_bar[2]).sqrt() * noise.normal(0, shape)
    for t in (2, 1):
        out = G(x, torch.full((3,), t - 1), noise.normal(2 * t, (G.latent_dim,)))
        a, a_prev, beta = d.alpha_bar[t], d.alpha_bar[t - 1], d.betas[t - 1]
        if parametrization == "direct":
            x = out
            continue
        x0 = (x - (1 - a).sqrt() * out) / a.sqrt() if parametrization == "noise" else out
        mean = a_prev.sqrt() * beta / (1 - a) * x0
        mean = mean + (1 - beta).sqrt() * (1 - a_prev) / (1 - a) * x
        fresh = noise.normal(2 * t + 1, shape)
        x = mean + ((1 - a_prev) / (1 - a) * beta).sqrt() * fresh
    expected = ((x + 1) * 127.5).round().clamp(0, 255)
    assert distance(result, expected) <= 1
    assert result.float().std() > 10


def test_a_result_depends_on_seed_and_index_alone(model, image, mask):
    for draw in (
        lambda **kw: edit(model, image, 2, **kw),
        lambda **kw: inpaint(model, image, mask, resample=2, **kw),
    ):
        results = draw(num=5, seed=3)
        assert (results.shape, results.dtype) == ((5, 3, SIZE, SIZE), torch.uint8)
        assert torch.equal(draw(num=5, seed=3), results)
        assert distance(draw(num=5, seed=3, batch_size=2), results) <= 1
        assert distance(draw(num=2, seed=3, first_index=3), results[3:]) <= 1
        assert distance(draw(num=5, seed=4), results) > 50
        assert distance(results[:1], results[1:2]) > 50


def test_fewer_steps_follow_the_image_more_closely(image):
    model = model_of(FreePixels())
    x0 = (image.double() - 127.5).flatten()
    likeness = []
    for t in range(1, T + 1):
        results = edit(model, image, t, num=50).double().sub(127.5).flatten(1)
        likeness.append(float((results @ x0).mean() / (x0 @ x0)))
    assert likeness == sorted(likeness, reverse=True)
    assert likeness[0] > 0.05 > abs(likeness[-1])


@pytest.mark.parametrize("start_step", [None, 1, 2, 4])
@pytest.mark.parametrize("resample", [1, 3])
def test_known_pixels_are_the_images(model, image, mask, start_step, resample):
    results = inpaint(model, image, mask, 3, start_step=start_step, resample=resample)
    known = ~mask
    assert torch.equal(results[..., known], image[:, known].expand(3, -1, -1))
    assert results[..., mask].float().std(dim=0).mean() > 10
    nothing = torch.zeros_like(mask)
    assert torch.equal(inpaint(model, image, nothing, 1, resample=resample)[0], image)


def test_to_draw_everything_is_to_sample_or_edit(model, image):
    everything = torch.ones(SIZE, SIZE, dtype=torch.bool)
    assert torch.equal(inpaint(model, image, everything, 4, seed=2), model.sample(4, seed=2))
    edited = edit(model, image, 2, num=4, seed=2)
    assert torch.equal(inpaint(model, image, everything, 4, seed=2, start_step=2), edited)


def test_resampling_brings_the_parts_into_agreement(mask):
    model = model_of(EqualPixels())
    image = torch.full((3, SIZE, SIZE), 180, dtype=torch.uint8)
    errors = []
    for resample in (1, 10):
        del model.calls[:]
        results = inpaint(model, image, mask, num=60, resample=resample)
        errors.append(float((results[..., mask].float() - 180).abs().mean()))
        assert [t for _, t, _ in model.calls] == [t for t in (4, 3, 2, 1) for _ in range(resample)]
    # All pixels are equal, so what is known says what the others are.
    assert errors[1] < 0.6 * errors[0]


def test_no_noise_is_used_twice(monkeypatch, image, mask):
    used = []
    original = SampleNoise.normal

    def normal(self, stream, shape):
        used.append(self.first_stream + stream)
        return original(self, stream, shape)

    monkeypatch.setattr(SampleNoise, "normal", normal)
    inpaint(model_of(FreePixels()), image, mask, num=1, resample=5)
    assert len(used) == len(set(used))
    # x_T, then z, the posterior's and the known part's of each step, and each step back; the
    # posterior at t = 1 has no variance.
    assert len(used) == 1 + 4 * (5 * 3 + 4) - 5


def test_diffusing_back_a_step_keeps_the_marginal(mask):
    # Where everything is known, each state is q(x_t | x_0), however often it is diffused back.
    model = model_of(FreePixels())
    nothing = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inpaint(model, torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8), nothing, 60, resample=3)
    for x_t, t, _ in model.calls:
        a = float(model.diffusion.alpha_bar[t])
        tolerance = 5 * math.sqrt((1 - a) / x_t.numel())
        assert abs(float(x_t.mean()) - math.sqrt(a)) < tolerance
        assert float(x_t.var()) == pytest.approx(1 - a, rel=5 * math.sqrt(2 / x_t.numel()))


def test_ways_begin_and_end_with_samples(model, image, lively, trained):
    way = interpolate(model, 5, num=3, seeds=(7, 9))
    assert (way.shape, way.dtype) == ((3, 5, 3, SIZE, SIZE), torch.uint8)
    assert torch.equal(way[:, 0], model.sample(3, seed=7))
    assert torch.equal(way[:, -1], model.sample(3, seed=9))
    assert (way.float().diff(dim=1).abs().mean((2, 3, 4)) > 0).all()
    points = load_model(trained("points") / "iter_6.pth", device="cpu")
    way = interpolate(points, 3, num=2)
    assert torch.equal(way[:, 0], points.sample(2, seed=0))
    assert torch.equal(way[:, -1], points.sample(2, seed=1))


def test_ways_between_edits(model, image):
    other = 255 - image
    way = interpolate(model, 3, num=2, seeds=(4, 5), images=(image, other), start_step=1)
    assert torch.equal(way[:, 0], edit(model, image, 1, num=2, seed=4))
    assert torch.equal(way[:, -1], edit(model, other, 1, num=2, seed=5))
    assert distance(way[:, 1], way[:, 0]) > 20


def test_noise_on_an_arc_stays_standard_normal():
    start, stop = (SampleNoise(seed, torch.arange(50)) for seed in (0, 1))
    for a in (0, 0.25, 0.5, 1):
        noise = InterpolatedNoise(start, 1, a)
        values = noise.normal(3, (1000,))
        angle = math.pi / 2 * a
        expected = math.cos(angle) * start.normal(3, (1000,)).double()
        expected = expected + math.sin(angle) * stop.normal(3, (1000,)).double()
        torch.testing.assert_close(values.double(), expected, rtol=0, atol=1e-6)
        assert abs(float(values.var()) - 1) < 5 * math.sqrt(2 / 50_000)
        assert abs(float(values.mean())) < 5 / math.sqrt(50_000)


def test_the_generator_is_evaluated_and_left_as_it_was(image):
    model = model_of(FreePixels())
    model.generator_ema.train()
    edit(model, image, 2, num=1)
    assert model.generator_ema.training
    assert [training for _, _, training in model.calls] == [False, False]


def bad(**changes):
    def call(model, image, mask):
        arguments = {"image": image, "start_step": 2, **changes}
        edit(model, **arguments)

    return call


BAD = [
    (bad(start_step=0), r"start_step is 0; this model has the steps 1 to 4"),
    (bad(start_step=5), r"start_step is 5"),
    (bad(image=torch.zeros(3, 8, 9, dtype=torch.uint8)), r"\(3, 8, 9\) torch.uint8; expected"),
    (bad(image=torch.zeros(3, 8, 8)), r"torch.float32; expected \(3, 8, 8\) torch.uint8"),
    (bad(num=0), r"num is 0"),
    (bad(batch_size=0), r"batch_size 0"),
    (bad(first_index=-1), r"first_index -1"),
    (lambda m, p, k: inpaint(m, p, k.float()), r"mask is \(8, 8\) torch.float32; expected"),
    (lambda m, p, k: inpaint(m, p, k[1:]), r"mask is \(7, 8\) torch.bool"),
    (lambda m, p, k: inpaint(m, p, k, resample=0), r"resample is 0"),
    (lambda m, p, k: inpaint(m, p, k, start_step=9), r"start_step is 9"),
    (lambda m, p, k: interpolate(m, 1), r"points is 1"),
    (lambda m, p, k: interpolate(m, 3, seeds=(2, 2)), r"two different seeds"),
    (lambda m, p, k: interpolate(m, 3, images=(p, p)), r"go together"),
    (lambda m, p, k: edit(model_of(FreePoints()), p, 1), r"shape \(2,\); only images"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_is_refused(model, image, mask, call, message):
    with pytest.raises(UserError, match=message):
        call(model, image, mask)


def test_a_model_without_steps_is_refused(image, mask):
    one_step = nn.Identity()
    for call in (lambda: edit(one_step, image, 1), lambda: inpaint(one_step, image, mask)):
        with pytest.raises(UserError, match=r"the model is Identity, without the denoising steps"):
            call()


def test_a_file_is_brought_to_the_models_shape(tmp_path):
    # Left half red, right half blue and transparent, between two bands that are cut off.
    pixels = np.zeros((32, 16, 4), np.uint8)
    pixels[8:24, :8] = (255, 0, 0, 255)
    pixels[8:24, 8:] = (0, 0, 255, 0)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    x = read_image(path, (3, 8, 8))
    assert (x.shape, x.dtype) == ((3, 8, 8), torch.uint8)
    assert (x[:, :, :4] == torch.tensor([255, 0, 0])[:, None, None]).all()
    assert (x[:, :, 4:] == 255).all()
    assert read_image(path, (1, 4, 4)).shape == (1, 4, 4)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        read_image(path, (3, 8, 8))
    with pytest.raises(UserError, match=r"no\.png does not exist"):
        read_image(tmp_path / "no.png", (3, 8, 8))

"""Images from images: stroke-based synthesis, inpainting, and paths between two samples.

All of it is sampling that starts elsewhere: no network is trained for it, and noise is drawn by
(seed, index) as in ``GenerativeModel.sample``.
"""

import math

import torch
from torch import Tensor, nn

from ddgan.diffusion import SampleNoise, ancestral
from ddgan.errors import UserError
from ddgan.models.base import Draw, GenerativeModel


def edit(
    model: GenerativeModel,
    image: Tensor,
    start_step: int,
    num: int = 8,
    seed: int = 0,
    first_index: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Draw ``num`` images that follow a stroke painting, uint8 (num, C, H, W).

    The painting, uint8 (C, H, W), is diffused to x_t with t = ``start_step`` in {1, …, T} and
    denoised from there (DDGAN, Sec. 5.3 and Fig. 9): a larger t follows it less closely. A result
    depends on ``seed`` and its index, from ``first_index`` on, alone; ``batch_size`` changes it by
    rounding at most. Raises UserError for a model without steps, an image of another shape or
    dtype, or a start_step that it does not have.
    """
    x0 = _to_x0(model, image)
    check_start_step(model, start_step)

    def draw(noise: SampleNoise, generator: nn.Module) -> Tensor:
        return _denoise_from(model, x0, start_step, noise, generator)

    return _sample(model, draw, num, seed, first_index, batch_size)


def inpaint(
    model: GenerativeModel,
    image: Tensor,
    mask: Tensor,
    num: int = 8,
    seed: int = 0,
    start_step: int | None = None,
    resample: int = 1,
    first_index: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Draw ``num`` images that equal ``image`` where ``mask`` is False, uint8 (num, C, H, W).

    ``image`` is uint8 (C, H, W), ``mask`` bool (H, W), True where an image is to be drawn. After
    each step, the known part is replaced by the image diffused to that step. With ``resample`` > 1
    each step is done so many times, diffused back by one step in between, which brings the two
    parts into agreement (Lugmayr et al., 2022, RePaint, Algorithm 1 with jump length 1; the last
    step is repeated as well, since with few steps it is a large one).

    Without ``start_step`` the part to be drawn starts as noise at T; with it, as the diffused
    image, so that strokes in it lead. Seeds and errors are as in ``edit``.
    """
    x0 = _to_x0(model, image)
    if mask.dtype != torch.bool or mask.shape != image.shape[1:]:
        raise UserError(
            f"mask is {tuple(mask.shape)} {mask.dtype}; expected {tuple(image.shape[1:])} "
            "torch.bool, true where the image is to be drawn"
        )
    if resample < 1:
        raise UserError(f"resample is {resample}; expected at least 1")
    if start_step is not None:
        check_start_step(model, start_step)
    mask = mask.to(model.device)
    diffusion, shape, T = model.diffusion, model.data_shape, model.diffusion.num_steps
    # Streams of a repetition: x_T and two for each step as in sampling, then the known part's noise
    # in x_0, …, x_{T-1}, then that of a step forward to x_1, …, x_T.
    known_streams, forward_streams, streams = 2 * T + 2, 3 * T + 2, 4 * T + 3

    def draw(noise: SampleNoise, generator: nn.Module) -> Tensor:
        start, x_T = start_step or T, noise.normal(0, shape)
        x = diffusion.q_sample(x0, start, x_T)
        if start_step is None:
            x = torch.where(mask, x_T, x)
        for t in range(start, 0, -1):
            for repetition in range(resample):
                rng = SampleNoise(noise.seed, noise.indices, repetition * streams)
                drawn = model.sampling_step(x, t, rng, generator)
                known = diffusion.q_sample(x0, t - 1, rng.normal(known_streams + t - 1, shape))
                x = torch.where(mask, drawn, known)
                if repetition + 1 < resample:
                    x = diffusion.q_step(x, t, rng.normal(forward_streams + t, shape))
        return x

    return _sample(model, draw, num, seed, first_index, batch_size)


def interpolate(
    model: GenerativeModel,
    points: int,
    num: int = 1,
    seeds: tuple[int, int] = (0, 1),
    images: tuple[Tensor, Tensor] | None = None,
    start_step: int | None = None,
) -> Tensor:
    """Draw ``points`` samples on each of ``num`` paths between two samples, (num, points, …).

    Path i leads from sample i of the first seed to sample i of the second. All noises (x_T, z and
    the posterior's) go along an arc on which they stay standard normal; the ends equal
    ``model.sample(num, seed)``. With two ``images``, uint8 (C, H, W), the ends are those of
    ``edit`` from ``start_step``, and the diffused image goes along a straight line. Raises
    UserError for equal seeds, fewer than 2 points, and as ``edit``.
    """
    if points < 2 or num < 1 or seeds[0] == seeds[1]:
        raise UserError(
            f"points is {points}, num {num} and seeds {tuple(seeds)}; expected at least 2 and 1, "
            "and two different seeds"
        )
    if (images is None) != (start_step is None):
        raise UserError("images and start_step go together: give both or neither")
    if images is not None:
        ends = [_to_x0(model, image) for image in images]
        check_start_step(model, start_step)

    def column(position: float) -> Tensor:
        def draw(start: SampleNoise, generator: nn.Module) -> Tensor:
            noise = InterpolatedNoise(start, seeds[1], position)
            if images is None:
                return model.draw(noise, generator)
            x0 = torch.lerp(*ends, position)
            return _denoise_from(model, x0, start_step, noise, generator)

        return _sample(model, draw, num, seeds[0])

    return torch.stack([column(i / (points - 1)) for i in range(points)], dim=1)


class InterpolatedNoise(SampleNoise):
    """Noise cos(πa/2) ε + sin(πa/2) ε' between the noises ε and ε' of two seeds, a in [0, 1].

    It is standard normal at every a, which a straight line between two draws is not, so that each
    point is a fair start for a generator. At a = 0 and 1 it is ε and ε' to the bit.
    """

    def __init__(self, start: SampleNoise, seed: int, position: float):
        """Take ε, the seed of ε' at the same indices, and a."""
        super().__init__(start.seed, start.indices)
        self.stop = SampleNoise(seed, start.indices)
        self.angle = position * math.pi / 2
        self.position = position

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) float32 standard normals of one stream."""
        if self.position == 0:
            return super().normal(stream, shape)
        if self.position == 1:
            return self.stop.normal(stream, shape)
        start, stop = super().normal(stream, shape).double(), self.stop.normal(stream, shape)
        return (math.cos(self.angle) * start + math.sin(self.angle) * stop).to(torch.float32)


def _denoise_from(
    model: GenerativeModel, x0: Tensor, start_step: int, noise: SampleNoise, generator: nn.Module
) -> Tensor:
    x_t = model.diffusion.q_sample(x0, start_step, noise.normal(0, model.data_shape))
    return ancestral(lambda x, t: model.sampling_step(x, t, noise, generator), x_t, start_step)


def _sample(
    model: GenerativeModel,
    draw: Draw,
    num: int,
    seed: int,
    first_index: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    if num < 1 or first_index < 0 or (batch_size is not None and batch_size < 1):
        raise UserError(
            f"num is {num}, first_index {first_index} and batch_size {batch_size}; expected at "
            "least 1, 0 and 1"
        )
    return model.sample(num, seed, batch_size, first_index, draw=draw)


def check_editable(model: GenerativeModel) -> None:
    """Raise UserError unless the model draws images in denoising steps to start from."""
    if not hasattr(model, "sampling_step"):
        raise UserError(
            f"the model is {type(model).__name__}, without the denoising steps of a DDGAN to start "
            "from; edit images with a DDGAN"
        )
    shape = tuple(model.data_shape)
    if len(shape) != 3:
        raise UserError(f"the model's samples have shape {shape}; only images can be edited")


def _to_x0(model: GenerativeModel, image: Tensor) -> Tensor:
    """x_0 (1, C, H, W) in [-1, 1]; raises UserError unless the image fits the model."""
    check_editable(model)
    shape = tuple(model.data_shape)
    if image.dtype != torch.uint8 or tuple(image.shape) != shape:
        raise UserError(
            f"image is {tuple(image.shape)} {image.dtype}; expected {shape} torch.uint8, the "
            "shape of the model's samples (ddgan.apis.read_image brings a file to it)"
        )
    return image.to(model.device).float().div(127.5).sub(1)[None]


def check_start_step(model: GenerativeModel, start_step: int) -> None:
    """Raise UserError unless the model has the step, in {1, …, T}."""
    T = model.diffusion.num_steps
    if not 1 <= start_step <= T:
        raise UserError(
            f"start_step is {start_step}; this model has the steps 1 to {T}: a higher one "
            "follows the painting less closely"
        )

"""Images from images: stroke-based synthesis, inpainting, and ways between two samples.

All of it is sampling that starts elsewhere: no network is trained for it, and noise is drawn by
(seed, index) as in ``GenerativeModel.sample``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ddgan.diffusion import SampleNoise, ancestral
from ddgan.errors import UserError
from ddgan.models.base import DEFAULT_BATCH_SIZE, GenerativeModel, evaluating
from ddgan.noise_on_arc import NoiseOnArc


@torch.no_grad()
def edit(
    model: GenerativeModel,
    image: Tensor,
    start_step: int,
    num: int = 8,
    seed: int = 0,
    first_index: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    """Return ``num`` images that follow a stroke painting, uint8 (num, C, H, W).

    The painting, uint8 (C, H, W), is diffused to x_t with t = ``start_step`` in {1, …, T} and
    denoised from there (DDGAN, Sec. 5.4 and Fig. 9): a larger t follows it less closely. A result
    depends on ``seed`` and its index, from ``first_index`` on, alone; ``batch_size`` changes it by
    rounding at most. Raises UserError for a model without steps, an image of another shape or
    dtype, or a start_step that it does not have.
    """
    x0 = _to_x0(model, image)
    check_start_step(model, start_step)

    def draw(noise: SampleNoise) -> Tensor:
        return _denoise_from(model, x0, start_step, noise)

    return _draw_all(model, draw, num, seed, first_index, batch_size)


@torch.no_grad()
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
    """Return ``num`` images that equal ``image`` where ``mask`` is False, uint8 (num, C, H, W).

    ``image`` is uint8 (C, H, W), ``mask`` bool (H, W), True where an image is to be drawn. After
    each step, what is known is replaced by the image diffused to that step. With ``resample`` > 1
    each step is done so many times, diffused back by one step in between, which brings the two
    parts into agreement (Lugmayr et al., 2022, RePaint, Algorithm 1 with jump length 1; the last
    step is repeated as well, since with few steps it is a large one).

    Without ``start_step`` the part to be drawn begins as noise at T; with it, as the diffused
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

    def draw(noise: SampleNoise) -> Tensor:
        return _fill(model, x0, mask, start_step, resample, noise)

    return _draw_all(model, draw, num, seed, first_index, batch_size)


@torch.no_grad()
def interpolate(
    model: GenerativeModel,
    points: int,
    num: int = 1,
    seeds: tuple[int, int] = (0, 1),
    images: tuple[Tensor, Tensor] | None = None,
    start_step: int | None = None,
) -> Tensor:
    """Return ``points`` samples on each of ``num`` ways between two samples, (num, points, …).

    Way i leads from sample i of the first seed to sample i of the second. All noises (x_T, z and
    the posterior's) go along an arc on which they stay standard normal; the ends equal
    ``model.sample(num, seed)`` bit for bit. With two ``images``, uint8 (C, H, W), the ends are
    those of ``edit`` from ``start_step``, and the diffused image goes along a straight line.
    Raises UserError for equal seeds, fewer than 2 points, and as ``edit``.
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

    def column(a: float) -> Tensor:
        def draw(start: SampleNoise) -> Tensor:
            noise = NoiseOnArc(start, SampleNoise(seeds[1], start.indices), a)
            if images is None:
                return model.draw(noise, model.generator_ema)
            return _denoise_from(model, torch.lerp(*ends, a), start_step, noise)

        return _draw_all(model, draw, num, seeds[0])

    return torch.stack([column(i / (points - 1)) for i in range(points)], dim=1)


def _denoise_from(
    model: GenerativeModel, x0: Tensor, start_step: int, noise: SampleNoise
) -> Tensor:
    x_t = _diffuse(model, x0, start_step, noise.normal(0, model.data_shape))
    return ancestral(model.sampling_step(noise, model.generator_ema), x_t, start_step)


class _LaterStreams(SampleNoise):
    """The same samples' noise in streams that no other draw uses."""

    def __init__(self, noise: SampleNoise, first_stream: int):
        self.key, self.indices, self.first_stream = noise.key, noise.indices, first_stream

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        return super().normal(self.first_stream + stream, shape)


def _fill(
    model: GenerativeModel,
    x0: Tensor,
    mask: Tensor,
    start_step: int | None,
    resample: int,
    noise: SampleNoise,
) -> Tensor:
    diffusion, shape, T = model.diffusion, model.data_shape, model.diffusion.num_steps
    start = start_step or T
    # Streams per repetition: x_T and two for each step as in sampling, then the known part's noise
    # in x_0, …, x_{T-1}, then that of a step forward to x_1, …, x_T.
    known_streams, forward_streams, per_repetition = 2 * T + 2, 3 * T + 2, 4 * T + 3
    x_T = noise.normal(0, shape)
    x = _diffuse(model, x0, start, x_T)
    if start_step is None:
        x = torch.where(mask, x_T, x)
    for t in range(start, 0, -1):
        for repetition in range(resample):
            own = _LaterStreams(noise, repetition * per_repetition) if repetition else noise
            drawn = model.sampling_step(own, model.generator_ema)(x, t)
            known = _diffuse(model, x0, t - 1, own.normal(known_streams + t - 1, shape))
            x = torch.where(mask, drawn, known)
            if repetition + 1 < resample:
                # Eq. 7: x_t ~ q(x_t | x_{t-1}).
                fresh = own.normal(forward_streams + t, shape)
                x = diffusion.sqrt_alphas[t - 1] * x + diffusion.sqrt_betas[t - 1] * fresh
    return x


def _diffuse(model: GenerativeModel, x0: Tensor, t: int, noise: Tensor) -> Tensor:
    steps = torch.full((len(noise),), t, device=noise.device)
    return model.diffusion.q_sample(x0.expand_as(noise), steps, noise)


def _draw_all(
    model: GenerativeModel,
    draw: Callable[[SampleNoise], Tensor],
    num: int,
    seed: int,
    first_index: int = 0,
    batch_size: int | None = None,
) -> Tensor:
    size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
    if num < 1 or first_index < 0 or size < 1:
        raise UserError(
            f"num is {num}, first_index {first_index} and batch_size {batch_size}; expected at "
            "least 1, 0 and 1"
        )
    stop = first_index + num
    batches = []
    with evaluating(model.generator_ema):
        for start in range(first_index, stop, size):
            indices = torch.arange(start, min(start + size, stop), device=model.device)
            batches.append(model.to_output(draw(SampleNoise(seed, indices))))
    return torch.cat(batches)


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
    """Return x_0 (1, C, H, W) in [-1, 1], once the model and the image are found to fit."""
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
            f"start_step is {start_step}; this model has the steps 1 to {T}: the higher, the less "
            "closely the painting is followed"
        )

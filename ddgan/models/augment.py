"""Augmentation of what a discriminator sees: transforms of images, and forward diffusion."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ddgan.diffusion import Diffusion
from ddgan.models.augment_corruptions import (
    CUTOUT_DRAWS,
    FILTER_DRAWS,
    NOISE_DRAWS,
    band_gains,
    cutout_masks,
    filter_bands,
    noise_levels,
)
from ddgan.models.augment_transforms import (
    COLOUR_DRAWS,
    GEOMETRY_DRAWS,
    PIXEL_DRAWS,
    TransformRandom,
    colour_matrices,
    geometry_matrices,
    permute_pixels,
    pixel_matrices,
    recolour,
    warp,
)
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS


@MODELS.register_module()
class AdaptiveAugmentation(nn.Module):
    """Transform the images that the discriminator sees, more often the more it overfits.

    (Karras et al., "Training generative adversarial networks with limited data", 2020)

    ``pipeline`` names the groups of transforms: "b" moves whole pixels (blitting), "g" is
    geometry, "c" colour, "f" a filter of four frequency bands, "n" noise, and "x" cuts a square
    out; each transform is applied with ``probability`` p. Every ``interval``
    batches p moves by (images seen) / (1000 ``kimg``), up where the mean sign of the logits of
    real images exceeds ``target``, else down; with ``target=None`` it is fixed. p and its
    statistics are buffers, and never waited for. Raises ValueError for values out of range.
    """

    p: Tensor
    batches: Tensor
    signs: Tensor

    def __init__(
        self,
        pipeline: str = "bgc",
        probability: float = 0.0,
        target: float | None = 0.6,
        interval: int = 4,
        kimg: float = 500,
    ):
        super().__init__()
        if not pipeline or set(pipeline) - set("bgcfnx"):
            raise ValueError(f"pipeline is {pipeline!r}; expected some of the letters in 'bgcfnx'")
        if not 0 <= probability <= 1 or interval < 1 or kimg <= 0:
            raise ValueError(
                f"probability is {probability}, interval {interval}, kimg {kimg}; expected a "
                "probability in [0, 1], interval >= 1 and kimg > 0"
            )
        self.pipeline = pipeline
        self.target, self.interval, self.kimg = target, interval, kimg
        self.register_buffer("p", torch.tensor(float(probability)))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        # The sum of the signs and their number, over the batches since p was last adjusted.
        self.register_buffer("signs", torch.zeros(2))

    def forward(self, x: Tensor, rng: StepRandom) -> Tensor:
        """Transformed images (N, C, H, W), twice differentiable with respect to ``x``.

        An image that no transform was drawn for is returned as it is.
        """
        self._check(x)
        count = PIXEL_DRAWS + GEOMETRY_DRAWS + COLOUR_DRAWS
        if set(self.pipeline) & set("fnx"):
            count += FILTER_DRAWS + NOISE_DRAWS + CUTOUT_DRAWS
        draws = TransformRandom(rng, count, self.p)
        size = x.shape[3]
        with torch.autocast(x.device.type, enabled=False):
            y = x.to(torch.promote_types(x.dtype, torch.float32))
            if "b" in self.pipeline:
                y = permute_pixels(y, pixel_matrices(draws, size))
            if "g" in self.pipeline:
                y = _where_drawn(warp, y, geometry_matrices(draws, size))
            if "c" in self.pipeline:
                y = _where_drawn(recolour, y, colour_matrices(draws))
            if "f" in self.pipeline:
                y = filter_bands(y, *band_gains(draws))
            if "n" in self.pipeline:
                noise = rng.normal(tuple(y.shape[1:]))
                y = y + noise * noise_levels(draws)[:, None, None, None]
            if "x" in self.pipeline:
                y = y * cutout_masks(draws, size)
        return y.to(x.dtype)

    @torch.no_grad()
    def update(self, real_logits: Tensor) -> None:
        """Count the logits of a batch of real, augmented images, and adjust p where it is due."""
        if self.target is None:
            return
        signs = real_logits.float().sign().nan_to_num()
        batch = torch.stack([signs.sum(), torch.ones_like(signs).sum()])
        all_reduce(batch)
        self.signs += batch
        self.batches += 1
        # Decided on the device: a GPU need not be waited for.
        due = self.batches >= self.interval
        total, seen = self.signs.unbind()
        step = torch.sign(total / seen - self.target) * seen / (1000 * self.kimg)
        self.p.copy_(torch.where(due, (self.p + step).clamp(0, 1), self.p))
        self.signs *= ~due
        self.batches *= ~due

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[2] != x.shape[3]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; expected square images (N, C, S, S), which can be "
                "turned by 90°"
            )
        if "c" in self.pipeline and x.shape[1] not in (1, 3):
            raise ValueError(
                f"images have {x.shape[1]} channels; expected 1 or 3, or a pipeline without 'c'"
            )


def _where_drawn(transform, x: Tensor, matrices: Tensor) -> Tensor:
    """Apply a transform to the images whose matrix is not the identity."""
    identity = torch.eye(matrices.shape[1], device=matrices.device)
    drawn = (matrices != identity).any(dim=2).any(dim=1)
    return torch.where(drawn[:, None, None, None], transform(x, matrices.to(x.dtype)), x)


@MODELS.register_module()
class DiffAugment(nn.Module):
    """Change the colours of images, move them and cut a square out, each image in its own way.

    (Zhao et al., "Differentiable augmentation for data-efficient GAN training", 2020.) ``policy``
    is some of "colour" (brightness, saturation and contrast), "translation" by up to an eighth of
    the side, and "cutout" of a square of half the side. What moves in, or is cut out, is 0.
    """

    def __init__(self, policy: Sequence[str] = ("colour", "translation", "cutout")):
        super().__init__()
        unknown = set(policy) - set(DIFF_AUGMENT)
        if unknown or not policy:
            raise ValueError(f"policy is {policy!r}; expected some of {[*DIFF_AUGMENT]}")
        self.policy = tuple(policy)

    def forward(self, x: Tensor, rng: StepRandom) -> Tensor:
        """Transformed images (N, C, H, W), twice differentiable with respect to ``x``."""
        for name in self.policy:
            x = DIFF_AUGMENT[name](x, rng)
        return x


def _jitter(x: Tensor, rng: StepRandom) -> Tensor:
    drawn = (rng.uniform().to(x.dtype) for _ in range(3))
    brightness, saturation, contrast = (values[:, None, None, None] for values in drawn)
    x = x + (brightness - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + 2 * saturation * (x - grey)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (x - mean)


def _translate(x: Tensor, rng: StepRandom) -> Tensor:
    for dim in (2, 3):
        size = x.shape[dim]
        most = int(size / 8 + 0.5)
        shift = rng.integers(-most, most)
        source = torch.arange(size, device=x.device) - shift[:, None]
        inside = ((source >= 0) & (source < size)).to(x.dtype)
        shape = [len(x), 1, 1, 1]
        shape[dim] = size
        index = source.clamp(0, size - 1).reshape(shape).expand_as(x)
        x = x.gather(dim, index) * inside.reshape(shape)
    return x


def _cut_out(x: Tensor, rng: StepRandom) -> Tensor:
    kept = []
    for size in x.shape[2:]:
        side = int(size / 2 + 0.5)
        start = rng.integers(0, size - side % 2) - side // 2
        line = torch.arange(size, device=x.device)
        kept.append((line < start[:, None]) | (line >= start[:, None] + side))
    rows, columns = kept
    return x * (rows[:, None, :, None] | columns[:, None, None, :]).to(x.dtype)


DIFF_AUGMENT = {"colour": _jitter, "translation": _translate, "cutout": _cut_out}


@MODELS.register_module()
class DiffusionAugmentation(nn.Module):
    """Diffuse each sample to a random time of {0, …, num_steps - 1} (DDGAN, Sec. 5.2, App. C.4).

    At 0 a sample stays as it is; at num_steps, which is left out, none of the data would remain.
    The diffusion is variance preserving.
    """

    def __init__(self, num_steps: int = 4, beta_min: float = 0.1, beta_max: float = 20.0):
        super().__init__()
        self.diffusion = Diffusion(num_steps, beta_min=beta_min, beta_max=beta_max)

    def forward(self, x: Tensor, rng: StepRandom) -> Tensor:
        """Perturbed samples (N, …), differentiable with respect to ``x``."""
        t = rng.integers(0, self.diffusion.num_steps - 1)
        return self.diffusion.q_sample(x, t, rng.normal(tuple(x.shape[1:])))

"""Deterministic transforms of images: Pillow image in, Pillow image out."""

from collections.abc import Callable, Sequence

from PIL import Image

from ddgan.data.decoding import MAX_PIXELS
from ddgan.registry import TRANSFORMS

Transform = Callable[[Image.Image], Image.Image]
RESAMPLING = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}


@TRANSFORMS.register_module()
class CentreCrop:
    """Cut out the centre: ``size`` x ``size`` pixels, or the largest square where size is None.

    Raises ValueError for an image smaller than ``size``.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = _check_size("CentreCrop", size) if size is not None else None

    def __call__(self, image: Image.Image) -> Image.Image:
        """The cropped image."""
        width, height = image.size
        size = self.size or min(width, height)
        if size > min(width, height):
            raise ValueError(
                f"CentreCrop(size={size}): the image is only {width}x{height} (width x height); "
                "put a Resize before the crop"
            )
        left, top = (width - size) // 2, (height - size) // 2
        return image.crop((left, top, left + size, top + size))

    def __repr__(self) -> str:
        return f"CentreCrop(size={self.size})"


@TRANSFORMS.register_module()
class Resize:
    """Scale the shorter side to ``size`` pixels, keeping the aspect ratio.

    ``resample`` is lanczos, bicubic, bilinear or box; all of them average when shrinking. Raises
    ValueError for an image so narrow that the result would have over 2^26 pixels.
    """

    def __init__(self, size: int, resample: str = "lanczos") -> None:
        if resample not in RESAMPLING:
            raise ValueError(
                f"Resize: resample is {resample!r}, expected one of {sorted(RESAMPLING)}"
            )
        self.size = _check_size("Resize", size)
        self.resample = resample

    def __call__(self, image: Image.Image) -> Image.Image:
        """The scaled image."""
        width, height = image.size
        shorter = min(width, height)
        if shorter == self.size:
            return image
        # Rounded in integers, so that the result does not hang on a floating-point tie.
        target = tuple((2 * side * self.size + shorter) // (2 * shorter) for side in image.size)
        if target[0] * target[1] > MAX_PIXELS:
            raise ValueError(
                f"Resize(size={self.size}): the image is {width}x{height} (width x height) and "
                f"would become {target[0]}x{target[1]}, over the limit of {MAX_PIXELS} pixels; put "
                "a CentreCrop before"
            )
        return image.resize(target, RESAMPLING[self.resample])

    def __repr__(self) -> str:
        return f"Resize(size={self.size}, resample={self.resample!r})"


def build_pipeline(pipeline: Sequence[dict | Transform]) -> list[Transform]:
    """The transforms of a pipeline, built from the registry where they are given as configs."""
    return [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline]


def _check_size(owner: str, size: int) -> int:
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{owner}: size is {size!r}, expected a positive number of pixels")
    return size

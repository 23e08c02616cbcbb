"""From the bytes of an image file to an RGB or grey image."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from ddgan.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# Only these of Pillow's decoders are tried, whatever a file claims to be.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 1 << 26
MAX_FILE_BYTES = 1 << 28
# What undoes each value of the EXIF tag "orientation".
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(source: Path | BinaryIO, channels: int) -> Image.Image:
    """The image in a file, upright, as mode RGB (``channels`` = 3) or L (1), 8 bits.

    Transparent pixels are laid over white; of several frames the first is taken. Raises
    ValueError for an image of over 2^26 pixels or of an unsupported kind, and whatever Pillow
    raises for a damaged file.
    """
    with Image.open(source, formats=FORMATS) as opened:
        width, height = opened.size
        # The size stands in the header: a decompression bomb is refused before it is unpacked.
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} is over the limit of {MAX_PIXELS} pixels")
        opened.load()
        image = _upright(opened)
    return _to_mode(image, "RGB" if channels == 3 else "L")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    # Damaged metadata must not cost a good image, and can raise nearly anything.
    except Exception:
        return image
    return image.transpose(_TURN[orientation]) if orientation in _TURN else image


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point images are not supported: convert it to 8 bits")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey values at 255.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(
                f"grey values span {values.min()} to {values.max()}: only 8 and 16 bits are "
                "supported, convert it to one of them"
            )
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def to_tensor(image: Image.Image) -> Tensor:
    """The uint8 tensor (C, H, W) of an image of mode RGB or L."""
    values = torch.from_numpy(np.array(image))
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1).contiguous()


def to_image(x: Tensor) -> Image.Image:
    """The image, of mode RGB or L, of a uint8 tensor (C, H, W) with C = 3 or 1."""
    values = x[0] if len(x) == 1 else x.permute(1, 2, 0).contiguous()
    return Image.fromarray(values.numpy())


def open_image(source: Path | BinaryIO, channels: int, name: str = "") -> Image.Image:
    """Return the decoded image of a file, as ``decode_image``.

    Raises UserError, which calls the image ``name``, if the file is missing, damaged, too large
    or of an unsupported kind.
    """
    try:
        return decode_image(source, channels)
    except FileNotFoundError:
        raise UserError(f"image {name or source} does not exist") from None
    # Decoders raise nearly anything on damaged data.
    except Exception as error:
        raise UserError(
            f"image {name or source} cannot be read ({error}); expected a whole PNG, JPEG, WebP, "
            "BMP or TIFF file"
        ) from None


def fit_image(image: Image.Image, shape: tuple[int, ...]) -> Tensor:
    """Return the centre of an image scaled to ``shape`` (C, H, W), uint8, by averaging areas."""
    _, height, width = shape
    return to_tensor(ImageOps.fit(image, (width, height), Image.Resampling.BOX))


def fit_mask(image: Image.Image, shape: tuple[int, ...]) -> Tensor:
    """Return where the fitted grey image is lighter than half, bool (H, W)."""
    return fit_image(image, (1, *shape[1:]))[0] >= 128


def read_image(path: str | Path, shape: tuple[int, ...]) -> Tensor:
    """Return the image in a file as uint8 of ``shape`` (C, H, W), a model's ``data_shape``.

    It is upright, its transparent parts lie over white, and of another aspect ratio the centre is
    taken. Raises UserError for a file that cannot be read.
    """
    return fit_image(open_image(Path(path), shape[0]), shape)

"""From the bytes of an image file to an RGB or grey image, and to a tensor."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from ddgan.errors import UserError
from ddgan.utils.files import refusal

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
# Only these of Pillow's decoders are tried, whatever a file claims to be.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 1 << 26
MAX_FILE_BYTES = 1 << 28
# In the ``info`` of an image: how many of 16 bits are used, where it is so few that it is dim.
USED_BITS = "ddgan_used_bits"
_DIM_BITS = 12
# The largest value of grey PNG files of less than 8 bits, by Pillow's name of the layout.
_MAX_GREY = {"L;2": 3, "L;4": 15}
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


def decode_image(source: Path | BinaryIO | bytes, channels: int) -> Image.Image:
    """The image in a file, upright, as mode RGB (``channels`` = 3) or L (1), 8 bits.

    Transparent pixels are laid over white; of several frames the first is taken; of 16 bits the
    upper 8 are kept, and ``info[USED_BITS]`` is set where only lower ones are used. Raises
    ValueError for an image of over 2^26 pixels or of an unsupported kind, and whatever Pillow
    raises for a damaged file.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(file, formats=FORMATS) as opened:
        width, height = opened.size
        # The size stands in the header: a decompression bomb is refused before it is unpacked.
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} is over the limit of {MAX_PIXELS} pixels")
        layout = _layout(opened)
        opened.load()
        image = _to_8_bits(_upright(opened), layout)
    used_bits = image.info.get(USED_BITS)
    image = _to_mode(image, "RGB" if channels == 3 else "L")
    if used_bits is not None:
        image.info[USED_BITS] = used_bits
    return image


decode_picture = decode_image  # the old name


def _layout(opened: Image.Image) -> str:
    """Pillow's name of how pixels are stored, such as "L;2"; empty if it has none."""
    args = opened.tile[0].args if opened.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    # Damaged metadata must not cost a good image, and can raise nearly anything.
    except Exception:
        return image
    return image.transpose(_TURN[orientation]) if orientation in _TURN else image


def _to_8_bits(image: Image.Image, layout: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point images are not supported: convert it to 8 bits")
    if image.mode == "I":
        raise ValueError(
            "its grey values have 32 bits or a sign: only 8 and 16 bits are supported, convert it "
            "to one of them"
        )
    transparent = image.info.get("transparency")
    if image.mode.startswith("I;"):
        return _upper_byte(np.asarray(image), 12 if layout == "I;12" else 16, transparent)
    # Pillow scales the pixels to 8 bits, but not the value that stands for transparency.
    if layout == "RGB;16B" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    elif layout in _MAX_GREY and isinstance(transparent, int):
        image.info["transparency"] = transparent * 255 // _MAX_GREY[layout]
    return image


def _upper_byte(values: np.ndarray, bits: int, transparent: int | None) -> Image.Image:
    # Pillow would clip the values at 255.
    image = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    if isinstance(transparent, int):
        opaque = np.where(values == transparent, 0, 255).astype(np.uint8)
        image = Image.merge("LA", (image, Image.fromarray(opaque)))
    used = int(values.max()).bit_length()
    if bits == 16 and 0 < used <= _DIM_BITS:
        image.info[USED_BITS] = used
    return image


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
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


def encode_png(x: Tensor) -> bytes:
    """The PNG file of a uint8 tensor (C, H, W) with C = 3 or 1."""
    file = io.BytesIO()
    to_image(x).save(file, "PNG")
    return file.getvalue()


def open_image(source: Path | BinaryIO, channels: int, name: str = "") -> Image.Image:
    """The decoded image of a file from outside, as ``decode_image``.

    Raises UserError, which calls the image ``name``, for a file that is missing, damaged, too
    large or of an unsupported kind.
    """
    try:
        return decode_image(source, channels)
    except FileNotFoundError:
        raise UserError(f"image {name or source} does not exist") from None
    # Decoders raise nearly anything on damaged data.
    except Exception as error:
        raise UserError(
            f"image {name or source} cannot be read ({refusal(error)}); expected a whole PNG, "
            "JPEG, WebP, BMP or TIFF file"
        ) from None


def fit_image(image: Image.Image, shape: tuple[int, ...]) -> Tensor:
    """The centre of an image scaled to ``shape`` (C, H, W), uint8, by averaging areas."""
    _, height, width = shape
    return to_tensor(ImageOps.fit(image, (width, height), Image.Resampling.BOX))


def fit_mask(image: Image.Image, shape: tuple[int, ...]) -> Tensor:
    """Where the fitted grey image is lighter than half, bool (H, W)."""
    return fit_image(image, (1, *shape[1:]))[0] >= 128


def read_image(path: str | Path, shape: tuple[int, ...]) -> Tensor:
    """The image in a file as uint8 of ``shape`` (C, H, W), a model's ``data_shape``.

    It is upright, transparency is laid over white, and of another aspect ratio the centre is
    taken. Raises UserError for a file that cannot be read.
    """
    return fit_image(open_image(Path(path), shape[0]), shape)

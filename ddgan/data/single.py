"""One image from outside, as a model takes it."""

from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps
from torch import Tensor

from ddgan.data.decoding import decode_image, to_tensor
from ddgan.errors import UserError


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

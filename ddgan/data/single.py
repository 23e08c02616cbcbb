"""One picture from outside, as a model takes it."""

from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps
from torch import Tensor

from ddgan.data.decoding import decode_picture, to_tensor
from ddgan.errors import UserError


def open_picture(source: Path | BinaryIO, channels: int, name: str = "") -> Image.Image:
    """Return the decoded picture of a file, as ``decode_picture``.

    Raises UserError, which calls the picture ``name``, if the file is missing, damaged, too large
    or of an unsupported kind.
    """
    try:
        return decode_picture(source, channels)
    except FileNotFoundError:
        raise UserError(f"picture {name or source} does not exist") from None
    # Decoders raise nearly anything on damaged data.
    except Exception as error:
        raise UserError(
            f"picture {name or source} cannot be read ({error}); expected a whole PNG, JPEG, WebP, "
            "BMP or TIFF file"
        ) from None


def fit_picture(image: Image.Image, shape: tuple[int, ...]) -> Tensor:
    """Return the centre of a picture scaled to ``shape`` (C, H, W), uint8, by averaging areas."""
    _, height, width = shape
    return to_tensor(ImageOps.fit(image, (width, height), Image.Resampling.BOX))


def fit_mask(image: Image.Image, shape: tuple[int, ...]) -> Tensor:
    """Return where the fitted grey picture is lighter than half, bool (H, W)."""
    return fit_picture(image, (1, *shape[1:]))[0] >= 128


def read_picture(path: str | Path, shape: tuple[int, ...]) -> Tensor:
    """Return the picture in a file as uint8 of ``shape`` (C, H, W), a model's ``data_shape``.

    It is upright, its transparent parts lie over white, and of another aspect ratio the centre is
    taken. Raises UserError for a file that cannot be read.
    """
    return fit_picture(open_picture(Path(path), shape[0]), shape)

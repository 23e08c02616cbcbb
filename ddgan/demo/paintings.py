"""What the page sends, as an image: checked by decoding, within limits, in memory alone."""

import base64
import binascii
import io
import math

from PIL import Image
from torch import Tensor

from ddgan.data.decoding import fit_image, open_image
from ddgan.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 8 << 20
MAX_PIXELS = 1 << 24


def decode_painting(data_url: str, shape: tuple[int, ...]) -> Tensor:
    """Return the image of a ``data:`` URL as uint8 of ``shape`` (C, H, W).

    The file in it must be a PNG, JPEG or WebP, whatever type the URL states, of up to 8 MiB and
    2^24 pixels; the size is taken from its header before anything is unpacked. Raises UserError
    for everything else.
    """
    if not isinstance(data_url, str):
        raise UserError("the painting is not a data: URL in base64")
    head, comma, body = data_url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise UserError("the painting is not a data: URL in base64")
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise UserError(f"the painting is over the limit of {MAX_BYTES >> 20} MiB")
    try:
        content = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("the painting is not valid base64") from None
    _check_header(content)
    return fit_image(open_image(io.BytesIO(content), shape[0], name="sent"), shape)


def _check_header(content: bytes) -> None:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = math.inf
    # Decoders raise nearly anything on damaged data.
    except Exception:
        raise UserError("the painting is not a PNG, JPEG or WebP image") from None
    if pixels > MAX_PIXELS:
        raise UserError(f"the painting is over the limit of {MAX_PIXELS} pixels")

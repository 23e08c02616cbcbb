"""Centre crop and resize, and the decoding of unusual images."""

import io
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_stores import png_file
from PIL import Image, ImageOps, JpegImagePlugin

from ddgan.data import CentreCrop, ImageFolder, Resize
from ddgan.data.decoding import decode_image, to_tensor
from ddgan.data.transforms import build_pipeline
from ddgan.registry import TRANSFORMS

sides = st.integers(1, 40)


def random_image(width, height, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@given(sides, sides, st.one_of(st.none(), st.integers(1, 40)))
@settings(deadline=None)
def test_centre_crop(width, height, size):
    image = random_image(width, height)
    if size is not None and size > min(width, height):
        with pytest.raises(ValueError, match=f"only {width}x{height}"):
            CentreCrop(size)(image)
        return
    side = size or min(width, height)
    cropped = np.asarray(CentreCrop(size)(image))
    assert cropped.shape == (side, side, 3)
    # Equal borders, up to the odd pixel, which goes to the right and to the bottom.
    top, left = (height - side) // 2, (width - side) // 2
    np.testing.assert_array_equal(cropped, np.asarray(image)[top : top + side, left : left + side])


@given(sides, sides, st.integers(1, 40))
@settings(deadline=None)
def test_resize_scales_the_shorter_side(width, height, size):
    image = Resize(size)(random_image(width, height))
    assert min(image.size) == size
    ratio = size / min(width, height)
    assert abs(max(image.size) - max(width, height) * ratio) <= 0.5 + 1e-9


def test_resize_averages_when_shrinking():
    image = random_image(32, 16)
    blocks = np.asarray(image).astype(float).reshape(8, 2, 16, 2, 3).mean((1, 3))
    shrunk = np.asarray(Resize(8, resample="box")(image)).astype(float)
    # Pillow rounds after each of the two directions.
    assert np.abs(shrunk - blocks).max() <= 1.0
    # torch's antialiased bilinear filter is an independent implementation of the same one.
    x = to_tensor(image).float()[None]
    oracle = torch.nn.functional.interpolate(x, (8, 16), mode="bilinear", antialias=True)[0]
    ours = to_tensor(Resize(8, resample="bilinear")(image)).float()
    assert (ours - oracle).abs().max() <= 1.0
    flat = Image.new("RGB", (31, 17), (10, 200, 77))
    for name in ("lanczos", "bicubic", "bilinear", "box"):
        assert Resize(5, resample=name)(flat).getcolors() == [(45, (10, 200, 77))]


def test_resize_leaves_a_fitting_image_alone():
    image = random_image(9, 5)
    assert Resize(5)(image) is image


def test_a_narrow_image_does_not_become_a_huge_one(monkeypatch):
    with pytest.raises(ValueError, match=r"1x60000 .* would become 256x15360000, over the limit"):
        Resize(256)(Image.new("L", (1, 60_000)))
    monkeypatch.setattr("ddgan.data.transforms.MAX_PIXELS", 1000)
    assert Resize(10)(Image.new("L", (1, 10))).size == (10, 100)
    with pytest.raises(ValueError, match="would become 10x110"):
        Resize(10)(Image.new("L", (1, 11)))


def test_registry_and_bad_arguments():
    crop, resize = build_pipeline([{"type": "CentreCrop"}, Resize(4)])
    assert repr([crop, resize]) == "[CentreCrop(size=None), Resize(size=4, resample='lanczos')]"
    with pytest.raises(ValueError, match="resample is 'nearest', expected one of"):
        Resize(4, resample="nearest")
    for bad in (0, -1, 2.5):
        with pytest.raises(ValueError, match="expected a positive number"):
            Resize(bad)
    with pytest.raises(TypeError, match="sise"):
        TRANSFORMS.build({"type": "Resize", "sise": 4})


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return io.BytesIO(file.getvalue())


def test_transparency_is_laid_over_white():
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = (0, 255, 51)
    x = np.asarray(decode_image(encoded(Image.fromarray(rgba)), 3))
    # 51 / 255 = 1/5 of (200, 0, 0) over 4/5 of white.
    assert x[0].tolist() == [[255, 255, 255], [200, 0, 0], [244, 204, 204]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 8, 7])
    assert decode_image(encoded(palette), 3).getpixel((0, 0)) == (9, 8, 7)
    assert decode_image(encoded(palette, transparency=0), 3).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_high_byte():
    values = np.array([[0, 255, 256, 0x8000, 0xFFFF]], dtype=np.uint16)
    for form in ("PNG", "TIFF"):
        grey = decode_image(encoded(Image.fromarray(values), form), 1)
        assert np.asarray(grey).tolist() == [[0, 0, 1, 128, 255]]
    colour = to_tensor(decode_image(encoded(Image.fromarray(values)), 3))
    assert colour[:, 0, 3].tolist() == [128, 128, 128]


def grey_png(bits, values, transparent):
    """A grey PNG file of one row, of any depth, with a transparent value."""
    packed = "".join(f"{value:0{bits}b}" for value in values)
    size = -(-len(packed) // 8)
    row = b"\0" + int(packed.ljust(size * 8, "0"), 2).to_bytes(size, "big")
    transparency = (b"tRNS", struct.pack(">H", transparent))
    return io.BytesIO(png_file(len(values), 1, bits, 0, row, transparency))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_at_every_depth(bits, channels):
    top = 2**bits - 1
    # Black, which is transparent, and white next to a value that differs in its lowest bit alone.
    values = [0, top, 0, 1]
    x = to_tensor(decode_image(grey_png(bits, values, 0), channels))
    expected = [255, 255, 255, 0 if bits == 16 else 255 // top]
    assert x[0, 0].tolist() == expected
    other = to_tensor(decode_image(grey_png(bits, values, top), channels))
    assert other[0, 0].tolist()[:3] == [0, 255, 0]


def test_few_bits_of_sixteen_are_told(tmp_path, log):
    for i, top in enumerate((0xFFFF, 0xFFF, 0xFF, 0)):
        values = np.linspace(0, top, 36).reshape(6, 6).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"{i}.png")
    data = ImageFolder(tmp_path, channels=1)
    assert [len(data[i]["x"]) for i in range(4)] == [1] * 4
    # Once for a data set; an image that is black in all its bits is no mistake.
    assert len(log) == 1
    assert "1.png has 16 bits but uses only the lowest 12" in log[0]


@pytest.mark.parametrize("value", [-1, 0, 255, 0x10000])
def test_more_than_sixteen_bits_are_refused(value):
    values = np.array([[0, value]], dtype=np.int32)
    with pytest.raises(ValueError, match="only 8 and 16 bits are supported"):
        decode_image(encoded(Image.fromarray(values), "TIFF"), 1)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_turned_photograph_is_put_upright(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    file = encoded(random_image(3, 2), form, exif=exif, **options)
    upright = decode_image(file, 3)
    oracle = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(upright), np.asarray(oracle))
    assert upright.size == ((2, 3) if 5 <= orientation <= 8 else (3, 2))


def test_damaged_metadata_does_not_cost_the_image(monkeypatch):
    def damaged(image):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", damaged)
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "getexif", damaged)
    assert decode_image(encoded(random_image(3, 2), "JPEG"), 3).size == (3, 2)


def test_refused_kinds():
    with pytest.raises(ValueError, match="floating-point"):
        decode_image(encoded(Image.new("F", (2, 2)), "TIFF"), 3)
    # Pillow could read both of these, but only the listed formats are tried.
    for form in ("GIF", "PPM"):
        with pytest.raises(OSError, match="cannot identify"):
            decode_image(encoded(random_image(2, 2), form), 3)


def test_grey_and_one_pixel():
    x = to_tensor(decode_image(encoded(Image.new("L", (1, 1), 7)), 1))
    assert x.tolist() == [[[7]]]
    assert to_tensor(decode_image(encoded(Image.new("L", (2, 1), 7)), 3)).shape == (3, 1, 2)

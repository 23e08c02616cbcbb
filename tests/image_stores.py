"""Small stores of images for tests: folders, zips, LMDBs, IDX files, and a decompression bomb."""

import io
import struct
import zipfile
import zlib

import lmdb
import numpy as np
from PIL import Image

from ddgan.data import ImageFolder, ImageLMDB, ImageZip

SIZE = 6


def values_of(i, height=SIZE, width=SIZE):
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(values, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(values).save(file, form)
    return file.getvalue()


def images(count):
    return {f"{i:02d}.png": encoded(values_of(i)) for i in range(count)}


def make_folder(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return ImageFolder


def make_zip(path, files):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return ImageZip


def make_lmdb(path, files):
    with lmdb.open(str(path), map_size=1 << 24) as opened, opened.begin(write=True) as transaction:
        for name, content in files.items():
            transaction.put(name.encode(), content)
    return ImageLMDB


def png_file(width, height, depth, colour, data, *chunks):
    """A PNG file of any header and compressed data, as no encoder of Pillow writes it."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    all_chunks = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*named) for named in all_chunks)


def bomb():
    """A PNG of a few bytes whose header declares a huge image."""
    return png_file(9_000, 9_000, 8, 2, b"\0")


def idx_bytes(values):
    """An IDX file of uint8 values."""
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()

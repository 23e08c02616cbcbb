"""Images in an LMDB: CelebA-HQ as NVAE and DDGAN prepare it, and LSUN as it is published.

The file is read without the library, which maps it into memory: a page that is missing (a download
that broke off) or cannot be read (a network that is down) would kill the process. The format is
that of LMDB 0.9 (``mdb.c`` and ``lmdb.h`` of OpenLDAP): a B+ tree of pages, little-endian.
"""

import contextlib
import hashlib
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from ddgan.data.decoding import MAX_FILE_BYTES, decode_image, encode_png
from ddgan.data.images import ImageDataset
from ddgan.data.labels import LABELS, Entries, labels_json, read_labels
from ddgan.data.storage import PatientFile, patiently, read_file
from ddgan.errors import UserError
from ddgan.registry import DATASETS
from ddgan.utils.files import refusal

_IMAGE_START = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
# So many values, from all over the file, go into the digest with their content.
_PROBES = 100


@DATASETS.register_module()
class ImageLMDB(ImageDataset):
    """The images of an LMDB: encoded files, or raw uint8 values of square RGB images.

    The order is that of the keys "0", "1", ... where the keys are these, else the sorted one.
    ``num_images`` takes only the first ones. Labels come from a ``dataset.json`` next to data.mdb,
    in the form that ImageZip reads, with keys for names. Nothing is written next to the data.
    Raises FileNotFoundError for a missing path, ValueError for a path that is no LMDB, is
    truncated or damaged, has too few entries, entries that are no images, or labels of another
    form. ``options`` and the other errors are those of ImageDataset.
    """

    def __init__(self, path: str | Path, num_images: int | None = None, **options: Any) -> None:
        self.path = Path(path)
        if not patiently(self.path.exists, self.path):
            raise FileNotFoundError(
                f"ImageLMDB: {self.path} does not exist; set path to the .lmdb folder (the one "
                "that holds data.mdb) or file"
            )
        file = self.path / "data.mdb" if self.path.is_dir() else self.path
        if not patiently(file.is_file, file):
            raise ValueError(f"ImageLMDB: {self.path} has no data.mdb; set path to an LMDB")
        self._file = PatientFile(file)
        try:
            entries = list(_entries(self._file))
        except (ValueError, struct.error, IndexError, OverflowError) as error:
            raise ValueError(
                f"ImageLMDB: {self.path} cannot be read as an LMDB of images ({refusal(error)}); "
                "get it again, or set path to another"
            ) from error
        if not entries:
            raise ValueError(f"ImageLMDB: {self.path} is empty; set path to another")
        count = len(entries) if num_images is None else num_images
        if not 1 <= count <= len(entries):
            raise ValueError(
                f"ImageLMDB: {self.path} has {len(entries)} entries, but num_images={num_images} "
                "asks for another number; expected at least 1 and no more than there are"
            )
        numbered = {entry.key for entry in entries} == {b"%d" % i for i in range(len(entries))}
        if numbered:
            entries.sort(key=lambda entry: int(entry.key))
        self._keys = None if numbered else [entry.key for entry in entries[:count]]
        self._spans = np.array([entry[1:] for entry in entries[:count]], dtype=np.int64)
        sizes, frequencies = np.unique(self._spans[:, 1], return_counts=True)
        self._raw_size = int(sizes[frequencies.argmax()])
        labels = self.path / LABELS
        if patiently(labels.is_file, labels):
            names = [self._key(i).decode(errors="replace") for i in range(count)]
            self.labels = read_labels(
                [LABELS], names, self.path, lambda _: read_file(labels, MAX_FILE_BYTES)
            )
        super().__init__(f"lmdb {self.path}", count, **options)

    def image_name(self, index: int) -> str:
        """The path of the LMDB and the key of the image."""
        return f"{self.path}:{self._key(index).decode(errors='replace')}"

    def _key(self, index: int) -> bytes:
        return b"%d" % index if self._keys is None else self._keys[index]

    def _value(self, index: int) -> bytes:
        offset, size = self._spans[index].tolist()
        return self._file.read_at(offset, size)

    def _decode(self, index: int) -> Image.Image:
        value = self._value(index)
        side = math.isqrt(len(value) // 3)
        if 3 * side * side != len(value):
            return decode_image(value, self.channels)
        if len(value) != self._raw_size:
            # Raw images are all of one size: this is no image, such as the number of entries.
            return decode_image(value, self.channels)
        if value.startswith(_IMAGE_START):
            # The first pixels of a raw image can look like the beginning of an encoded one.
            with contextlib.suppress(Exception):
                return decode_image(value, self.channels)
        image = Image.fromarray(np.frombuffer(value, dtype=np.uint8).reshape(side, side, 3))
        return image if self.channels == 3 else image.convert("L")

    def _identity(self) -> Iterator[str]:
        yield f"{len(self)} {self._file.size}"
        # Raw images of one size make files of one size: only the content tells them apart.
        probes = min(len(self), _PROBES)
        for index in (i * (len(self) - 1) // max(1, probes - 1) for i in range(probes)):
            value = self._value(index)
            yield f"{self._key(index)!r} {len(value)} {hashlib.sha256(value).hexdigest()}"
        yield str(self.labels)


class _Entry(NamedTuple):
    key: bytes
    offset: int
    size: int


_PAGE_HEADER = 16
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF = 0x01, 0x02
_BIG_VALUE, _SUB_DATABASE, _DUPLICATES = 0x01, 0x02, 0x04
_NO_PAGE = (1 << 64) - 1
_MAX_DEPTH = 32


def _entries(file: PatientFile) -> Iterator[_Entry]:
    """The entries of the unnamed database in the order of keys, without their values.

    Raises ValueError for a file of another kind, a truncated or a damaged one, and for databases
    inside of the database.
    """
    page_size, root, num_entries = _read_meta(file)
    if root == _NO_PAGE:
        return
    found = 0
    # Pages still to be read, the next one last, each with its depth.
    pending = [(root, 1)]
    while pending:
        number, depth = pending.pop()
        page = file.read_at(number * page_size, page_size)
        if len(page) < page_size:
            raise ValueError(f"its page {number} lies beyond its end: it is truncated")
        own_number, _, flags, lower = struct.unpack_from("<QHHH", page)
        if own_number != number or depth > _MAX_DEPTH or not flags & (_BRANCH | _LEAF):
            raise ValueError(f"its page {number} is damaged")
        count = (lower - _PAGE_HEADER) // 2
        nodes = struct.unpack_from(f"<{count}H", page, _PAGE_HEADER)
        if flags & _BRANCH:
            children = [_child(page, node) for node in nodes]
            pending += [(child, depth + 1) for child in reversed(children)]
        else:
            found += count
            yield from (_leaf_entry(file, page, node, number, page_size) for node in nodes)
        if found > num_entries or len(pending) * page_size > file.size:
            raise ValueError("its pages form no tree: it is damaged")
    if found != num_entries:
        raise ValueError(f"it has {found} entries, but declares {num_entries}: it is damaged")


def _read_meta(file: PatientFile) -> tuple[int, int, int]:
    """Page size, root page and number of entries, of the later one of the two meta pages."""
    first = file.read_at(_PAGE_HEADER, 136)
    if len(first) < 136 or struct.unpack_from("<I", first)[0] != _MAGIC:
        raise ValueError("it does not begin as an LMDB of a little-endian 64-bit machine does")
    page_size = struct.unpack_from("<I", first, 24)[0]
    if page_size & (page_size - 1) or not 512 <= page_size <= 1 << 16:
        raise ValueError(f"its page size is {page_size}")
    second = file.read_at(page_size + _PAGE_HEADER, 136)
    if len(second) < 136:
        raise ValueError("it ends within its second page: it is truncated")
    meta = max(first, second, key=lambda meta: struct.unpack_from("<Q", meta, 128)[0])
    magic, version = struct.unpack_from("<II", meta)
    if magic != _MAGIC or version != _VERSION:
        raise ValueError(f"its version is {version}, expected {_VERSION}")
    last_page = struct.unpack_from("<Q", meta, 120)[0]
    # Database 0 is that of free pages, 1 the unnamed one.
    _, flags, _, _, _, _, num_entries, root = struct.unpack_from("<IHHQQQQQ", meta, 72)
    if flags & _DUPLICATES:
        raise ValueError("it has several values for a key, which no LMDB of images has")
    if file.size < (last_page + 1) * page_size:
        raise ValueError(
            f"it has {file.size} bytes, but declares {(last_page + 1) * page_size}: it is truncated"
        )
    return page_size, root, num_entries


def _child(page: bytes, node: int) -> int:
    low, high, top = struct.unpack_from("<HHH", page, node)
    return low | high << 16 | top << 32


def _leaf_entry(file: PatientFile, page: bytes, node: int, number: int, page_size: int) -> _Entry:
    low, high, flags, key_size = struct.unpack_from("<HHHH", page, node)
    start = node + 8 + key_size
    key, size = page[node + 8 : start], low | high << 16
    if flags & (_SUB_DATABASE | _DUPLICATES):
        raise ValueError(
            f"its entry {key.decode(errors='replace')!r} is a database of its own, no image; "
            "store the images in the unnamed one"
        )
    offset = number * page_size + start
    if flags & _BIG_VALUE:
        offset = struct.unpack_from("<Q", page, start)[0] * page_size + _PAGE_HEADER
    elif start + size > page_size:
        raise ValueError(f"its page {number} is damaged")
    if size > MAX_FILE_BYTES or offset + size > file.size:
        raise ValueError(f"the value of its entry {key.decode(errors='replace')!r} is damaged")
    return _Entry(key, offset, size)


# Of writing: bytes per transaction, and room for pages next to the values.
_TRANSACTION = 1 << 26
_PAGE = 4096


def encode_for_lmdb(x: Tensor) -> bytes:
    """Raw (H, W, 3) values, or a PNG file where their shape could not be told from their number."""
    if len(x) == 3 and x.shape[1] == x.shape[2]:
        return x.permute(1, 2, 0).contiguous().numpy().tobytes()
    return encode_png(x)


def write_lmdb(path: Path, entries: Entries, count: int, shape: tuple[int, ...], size: int) -> None:
    """Store values under the keys "0", "1", ..., and labels in ``dataset.json`` next to them."""
    try:
        import lmdb
    except ImportError:
        raise UserError("an LMDB is written by the package lmdb: run 'pip install lmdb'") from None
    path.mkdir()
    labels, pending, pending_bytes = [], [], 0

    def put_pending() -> None:
        with environment.begin(write=True) as transaction:
            for key, value in pending:
                transaction.put(key, value)

    try:
        map_size = 2 * size + 4 * _PAGE * (count + 1024)
        with lmdb.open(str(path), map_size=map_size, lock=False) as environment:
            for i, (content, label) in enumerate(entries):
                pending.append((str(i).encode(), content))
                labels.append([str(i), label])
                pending_bytes += len(content)
                if pending_bytes >= _TRANSACTION:
                    put_pending()
                    pending, pending_bytes = [], 0
            put_pending()
    except lmdb.Error as error:
        raise OSError(str(error)) from error
    if labels[0][1] is not None:
        (path / LABELS).write_text(labels_json(labels))

"""The forms that prepared images are stored in, each readable by a data set of this package."""

import io
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ddgan.data.decoding import to_image
from ddgan.data.lmdb_images import ImageLMDB, close_lmdb
from ddgan.data.memmap import ImageMemmap, labels_path
from ddgan.data.zip_images import LABELS, ImageZip

Entries = Iterator[tuple[bytes, int | None]]
# LMDB: bytes per transaction, and room for its pages beside the values.
_TRANSACTION = 1 << 26
_PAGE = 4096


class Format(ABC):
    """How one image is encoded, and how a file is put together from many."""

    suffix: str

    @abstractmethod
    def encode(self, x: Tensor) -> bytes:
        """The stored bytes of an image, uint8 (C, H, W)."""

    @abstractmethod
    def assemble(
        self, path: Path, entries: Entries, count: int, shape: tuple[int, ...], size: int
    ) -> None:
        """Write ``count`` encoded images of ``size`` bytes together, with labels, to ``path``."""

    @abstractmethod
    def open(self, path: Path, shape: tuple[int, ...]) -> Dataset:
        """The data set that reads the file."""

    def close(self, path: Path) -> None:  # noqa: B027 - most forms hold nothing
        """Let go of what ``open`` holds, so that the file can be moved."""

    def companions(self, path: Path) -> list[Path]:
        """Files beside ``path`` that belong to it."""
        return []


class ZipFormat(Format):
    """PNG files, stored, with StyleGAN's names and its ``dataset.json`` of labels."""

    suffix = ".zip"

    def encode(self, x: Tensor) -> bytes:
        """A PNG file."""
        return _png(x)

    def assemble(
        self, path: Path, entries: Entries, count: int, shape: tuple[int, ...], size: int
    ) -> None:
        """Write the zip."""
        labels = []
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for i, (content, label) in enumerate(entries):
                name = f"{i // 1000:05d}/img{i:08d}.png"
                # The same bytes at whatever time it is made.
                file.writestr(zipfile.ZipInfo(name), content)
                labels.append([name, label])
            file.writestr(zipfile.ZipInfo(LABELS), _labels_json(labels))

    def open(self, path: Path, shape: tuple[int, ...]) -> Dataset:
        """An ImageZip."""
        return ImageZip(path, channels=shape[0], max_unreadable=0)


class LMDBFormat(Format):
    """Keys "0", "1", ...; raw (H, W, 3) values of square RGB images, PNG of others."""

    suffix = ".lmdb"

    def encode(self, x: Tensor) -> bytes:
        """Raw values, or a PNG file where their shape could not be told from their number."""
        if len(x) == 3 and x.shape[1] == x.shape[2]:
            return x.permute(1, 2, 0).contiguous().numpy().tobytes()
        return _png(x)

    def assemble(
        self, path: Path, entries: Entries, count: int, shape: tuple[int, ...], size: int
    ) -> None:
        """Write the folder."""
        import lmdb

        path.mkdir()
        map_size = 2 * size + 4 * _PAGE * (count + 1024)
        labels, pending, pending_bytes = [], [], 0
        try:
            with lmdb.open(str(path), map_size=map_size, lock=False) as environment:
                for i, (content, label) in enumerate(entries):
                    pending.append((str(i).encode(), content))
                    labels.append([str(i), label])
                    pending_bytes += len(content)
                    if pending_bytes >= _TRANSACTION:
                        _put(environment, pending)
                        pending, pending_bytes = [], 0
                _put(environment, pending)
        except lmdb.Error as error:
            raise OSError(str(error)) from error
        if labels[0][1] is not None:
            (path / LABELS).write_text(_labels_json(labels))

    def open(self, path: Path, shape: tuple[int, ...]) -> Dataset:
        """An ImageLMDB."""
        return ImageLMDB(path, channels=shape[0], max_unreadable=0)

    def close(self, path: Path) -> None:
        """Close the environment, which cannot be opened a second time under another name."""
        close_lmdb(path)


class MemmapFormat(Format):
    """One uint8 array (N, C, H, W) in a ``.npy`` file, and one of the labels beside it."""

    suffix = ".npy"

    def encode(self, x: Tensor) -> bytes:
        """The raw values (C, H, W)."""
        return x.contiguous().numpy().tobytes()

    def assemble(
        self, path: Path, entries: Entries, count: int, shape: tuple[int, ...], size: int
    ) -> None:
        """Write the array, and its labels if there are any."""
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
        labels = []
        # Not mapped: on a full disk, writing to a mapped page kills the process.
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for content, label in entries:
                file.write(content)
                labels.append(label)
        if labels[0] is not None:
            np.save(labels_path(path), np.array(labels, dtype=np.int64))

    def open(self, path: Path, shape: tuple[int, ...]) -> Dataset:
        """An ImageMemmap."""
        return ImageMemmap(path)

    def companions(self, path: Path) -> list[Path]:
        """The labels."""
        return [labels_path(path)]


FORMATS: dict[str, Format] = {"zip": ZipFormat(), "lmdb": LMDBFormat(), "memmap": MemmapFormat()}


def _png(x: Tensor) -> bytes:
    buffer = io.BytesIO()
    to_image(x).save(buffer, "PNG")
    return buffer.getvalue()


def _labels_json(labels: list[list]) -> str:
    # A source gives labels to all of its images or to none.
    return json.dumps({"labels": labels if labels[0][1] is not None else None})


def _put(environment, pending: list[tuple[bytes, bytes]]) -> None:
    with environment.begin(write=True) as transaction:
        for key, value in pending:
            transaction.put(key, value)

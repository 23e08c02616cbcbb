"""Images in an LMDB: CelebA-HQ as NVAE and DDGAN prepare it, and LSUN as it is published."""

import contextlib
import hashlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddgan.data.decoding import decode_image
from ddgan.data.images import ImageDataset
from ddgan.data.transforms import Transform
from ddgan.data.zip_images import LABELS, parse_labels
from ddgan.registry import DATASETS

_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
# So many values, from all over the file, go into the digest with their content.
_PROBES = 100
# The library refuses to open an environment twice in one process. Each value has the process that
# opened it, because an environment must not be used by a forked one.
_opened: dict[str, tuple[int, Any]] = {}


@DATASETS.register_module()
class ImageLMDB(ImageDataset):
    """The images of an LMDB: encoded files, or raw uint8 values of square RGB images.

    The order is that of the keys "0", "1", ... where the keys are these, else the sorted one.
    ``num_images`` takes only the first ones. Labels come from a ``dataset.json`` beside data.mdb,
    in the form that ImageZip reads, with keys for names. Nothing is written beside the data.
    Raises ImportError without the package lmdb, FileNotFoundError for a missing path, ValueError
    for a path that is no LMDB, has too few entries or labels of another form. The other arguments
    and errors are those of ImageDataset.
    """

    def __init__(
        self,
        path: str | Path,
        pipeline: Sequence[dict | Transform] = (),
        image_size: int | None = None,
        channels: int = 3,
        max_unreadable: int = 100,
        num_images: int | None = None,
    ) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(
                f"ImageLMDB: {self.path} does not exist; set path to the .lmdb folder (the one "
                "that holds data.mdb) or file"
            )
        with _environment(self.path).begin() as transaction:
            entries = transaction.stat()["entries"]
            if entries == 0:
                raise ValueError(f"ImageLMDB: {self.path} is empty; set path to another")
            count = entries if num_images is None else num_images
            if not 1 <= count <= entries:
                raise ValueError(
                    f"ImageLMDB: {self.path} has {entries} entries, but num_images={num_images} "
                    "asks for another number; expected at least 1 and no more than there are"
                )
            numbered = all(
                transaction.get(str(i).encode()) is not None for i in (0, entries // 2, entries - 1)
            )
            self._keys = None if numbered else _first_keys(transaction, count)
        self.labels = self._read_labels(count)
        super().__init__(f"lmdb {self.path}", count, pipeline, image_size, channels, max_unreadable)

    def image_name(self, index: int) -> str:
        """The path of the LMDB and the key of the image."""
        return f"{self.path}:{self._key(index).decode(errors='replace')}"

    def _key(self, index: int) -> bytes:
        return str(index).encode() if self._keys is None else self._keys[index]

    def _decode(self, index: int) -> Image.Image:
        with _environment(self.path).begin() as transaction:
            value = transaction.get(self._key(index))
        if value is None:
            raise KeyError(f"no entry {self._key(index)!r}")
        side = math.isqrt(len(value) // 3)
        if 3 * side * side != len(value):
            return decode_image(io.BytesIO(value), self.channels)
        if value.startswith(_MAGIC):
            # The first pixels of a raw image can look like the beginning of an encoded one.
            with contextlib.suppress(Exception):
                return decode_image(io.BytesIO(value), self.channels)
        image = Image.fromarray(np.frombuffer(value, dtype=np.uint8).reshape(side, side, 3))
        return image if self.channels == 3 else image.convert("L")

    def label(self, index: int) -> int | None:
        """The integer that ``dataset.json`` gives for the image."""
        return None if self.labels is None else self.labels[index]

    def _read_labels(self, count: int) -> list[int] | None:
        path = self.path / LABELS
        if not path.is_file():
            return None
        try:
            return parse_labels(
                path.read_bytes(), [self._key(i).decode(errors="replace") for i in range(count)]
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"ImageLMDB: {path} does not give an integer label for each key, as {{'labels': "
                f"[[key, label], ...]}} ({type(error).__name__}: {error}); correct or remove it"
            ) from error

    def _identity(self) -> Iterator[str]:
        file = self.path / "data.mdb" if self.path.is_dir() else self.path
        yield f"{len(self)} {file.stat().st_size}"
        # Raw images of one size make files of one size: only the content tells them apart.
        probes = min(len(self), _PROBES)
        with _environment(self.path).begin() as transaction:
            for index in (i * (len(self) - 1) // max(1, probes - 1) for i in range(probes)):
                value = transaction.get(self._key(index)) or b""
                yield f"{self._key(index)!r} {len(value)} {hashlib.sha256(value).hexdigest()}"
        yield str(self.labels)


def close_lmdb(path: str | Path) -> None:
    """Close what this process has opened of the LMDB at ``path``, so that it can be moved."""
    _, environment = _opened.pop(_key_of(Path(path)), (None, None))
    if environment is not None:
        environment.close()


def _key_of(path: Path) -> str:
    return str((path / "data.mdb" if path.is_dir() else path).resolve())


def _environment(path: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError("ImageLMDB needs the package lmdb: run 'pip install lmdb'") from error

    key, process = _key_of(path), os.getpid()
    opener, environment = _opened.get(key, (None, None))
    if opener == process:
        return environment
    if environment is not None:
        environment.close()  # the copy that this worker process inherited
    try:
        environment = lmdb.open(
            str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False
        )
    except lmdb.Error as error:
        raise ValueError(
            f"ImageLMDB: {path} cannot be opened as an LMDB ({error}); expected the folder that "
            "holds data.mdb, or the file itself"
        ) from error
    _opened[key] = (process, environment)
    return environment


def _first_keys(transaction: Any, count: int) -> list[bytes]:
    keys = transaction.cursor().iternext(keys=True, values=False)
    return [key for key, _ in zip(keys, range(count), strict=False)]

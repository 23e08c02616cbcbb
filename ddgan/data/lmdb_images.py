"""Pictures in an LMDB: CelebA-HQ as NVAE and DDGAN prepare it, and LSUN as it is published."""

import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddgan.data.decoding import decode_picture
from ddgan.data.pictures import PictureDataset
from ddgan.data.transforms import Transform
from ddgan.registry import DATASETS

_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
# The library refuses to open an environment twice in one process. Each value has the process that
# opened it, because an environment must not be used by a forked one.
_opened: dict[str, tuple[int, Any]] = {}


@DATASETS.register_module()
class ImageLMDB(PictureDataset):
    """The pictures of an LMDB: encoded files, or raw uint8 values of square RGB pictures.

    The order is that of the keys "0", "1", ... where the keys are these, else the sorted one.
    ``num_images`` takes only the first ones. Nothing is written beside the data. Raises
    ImportError without the package lmdb, FileNotFoundError for a missing path, ValueError for a
    path that is no LMDB or has too few entries. The other arguments and errors are those of
    PictureDataset.
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
        super().__init__(f"lmdb {self.path}", count, pipeline, image_size, channels, max_unreadable)

    def picture_name(self, index: int) -> str:
        """The path of the LMDB and the key of the picture."""
        return f"{self.path}:{self._key(index).decode(errors='replace')}"

    def _key(self, index: int) -> bytes:
        return str(index).encode() if self._keys is None else self._keys[index]

    def _decode(self, index: int) -> Image.Image:
        with _environment(self.path).begin() as transaction:
            value = transaction.get(self._key(index))
        if value is None:
            raise KeyError(f"no entry {self._key(index)!r}")
        side = math.isqrt(len(value) // 3)
        if value.startswith(_MAGIC) or 3 * side * side != len(value):
            return decode_picture(io.BytesIO(value), self.channels)
        image = Image.fromarray(np.frombuffer(value, dtype=np.uint8).reshape(side, side, 3))
        return image if self.channels == 3 else image.convert("L")

    def _identity(self) -> Iterator[str]:
        file = self.path / "data.mdb" if self.path.is_dir() else self.path
        yield f"{len(self)} {file.stat().st_size}"
        with _environment(self.path).begin() as transaction:
            for index in range(len(self)) if len(self) <= 1000 else (0, len(self) - 1):
                yield f"{self._key(index)!r} {len(transaction.get(self._key(index)) or b'')}"


def _environment(path: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError("ImageLMDB needs the package lmdb: run 'pip install lmdb'") from error

    file = path / "data.mdb" if path.is_dir() else path
    key, process = str(file.resolve()), os.getpid()
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

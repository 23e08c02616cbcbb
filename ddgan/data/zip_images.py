"""A zip of images, with optional labels."""

import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image

from ddgan.data.decoding import MAX_FILE_BYTES, SUFFIXES, decode_image
from ddgan.data.images import ImageDataset
from ddgan.data.transforms import Transform
from ddgan.registry import DATASETS

LABELS = "dataset.json"


@DATASETS.register_module()
class ImageZip(ImageDataset):
    """All images of a zip file, in the order of their names.

    Labels come from ``dataset.json`` in the zip, ``{"labels": [[name, integer], ...]}`` as
    StyleGAN's tools write it, unless ``use_labels`` is off. Raises FileNotFoundError for a missing
    file, ValueError for one that is no zip, has no images, has labels of another form, or names
    that lead out of the folder that it would be unpacked to. The other arguments and errors are
    those of ImageDataset.
    """

    def __init__(
        self,
        path: str | Path,
        pipeline: Sequence[dict | Transform] = (),
        image_size: int | None = None,
        channels: int = 3,
        max_unreadable: int = 100,
        use_labels: bool = True,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            hint = "; for a folder use type='ImageFolder'" if self.path.is_dir() else ""
            raise FileNotFoundError(
                f"ImageZip: {self.path} is not a file{hint}; set path to your zip of images"
            )
        self._handle = None
        self._handle_pid = None
        for entry in self._zip().infolist():
            _check_name(entry.filename, self.path)
        entries = [(e.filename, e.file_size) for e in self._zip().infolist() if _is_image(e)]
        if not entries:
            raise ValueError(
                f"ImageZip: there are no images in {self.path}, expected files that end in one "
                f"of {' '.join(SUFFIXES)}"
            )
        self.names, self._sizes = zip(*sorted(entries), strict=True)
        self.labels = self._read_labels() if use_labels else None
        super().__init__(
            f"zip {self.path}", len(self.names), pipeline, image_size, channels, max_unreadable
        )

    def image_name(self, index: int) -> str:
        """The path of the zip and the name of the image in it."""
        return f"{self.path}:{self.names[index]}"

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_handle": None, "_handle_pid": None}

    def _zip(self) -> zipfile.ZipFile:
        # A forked worker shares the file position of an inherited handle with its parent, so
        # each process opens its own.
        if self._handle_pid != os.getpid():
            try:
                self._handle = zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise ValueError(
                    f"ImageZip: {self.path} is not a whole zip file ({error}); get it again"
                ) from error
            self._handle_pid = os.getpid()
        return self._handle

    def _read(self, name: str) -> bytes:
        # zipfile never unpacks more than the declared size.
        size = self._zip().getinfo(name).file_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{name} unpacks to {size} bytes, over the limit of {MAX_FILE_BYTES}")
        return self._zip().read(name)

    def _decode(self, index: int) -> Image.Image:
        return decode_image(io.BytesIO(self._read(self.names[index])), self.channels)

    def label(self, index: int) -> int | None:
        """The integer that ``dataset.json`` gives for the image."""
        return None if self.labels is None else self.labels[index]

    def _identity(self) -> Iterator[str]:
        for name, size in zip(self.names, self._sizes, strict=True):
            yield f"{name} {size} {self._zip().getinfo(name).CRC}"
        yield str(self.labels)

    def _read_labels(self) -> list[int] | None:
        if LABELS not in self._zip().namelist():
            return None
        try:
            return parse_labels(self._read(LABELS), self.names)
        except (ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"ImageZip: {LABELS} in {self.path} does not give an integer label for each "
                f"image, as {{'labels': [[name, label], ...]}} ({type(error).__name__}: "
                f"{error}); correct it, or set use_labels=False"
            ) from error


def parse_labels(text: str | bytes, names: Sequence[str]) -> list[int] | None:
    """The labels of the images ``names`` in a ``dataset.json``; None where it has none.

    Raises ValueError, TypeError or KeyError where it has another form or leaves an image out.
    """
    listed = json.loads(text)["labels"]
    if listed is None:
        return None
    by_name = dict(listed)
    labels = [by_name[name] for name in names]
    if any(type(label) is not int for label in labels):
        raise TypeError("a label is not an integer")
    return labels


def _check_name(name: str, path: Path) -> None:
    # Nothing is ever unpacked to disk here, but such a file was made to do harm.
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ValueError(
            f"ImageZip: {path} has an entry {name!r}, which leads out of the zip's folder; do not "
            "unpack it before you know where it is from"
        )


def _is_image(entry: zipfile.ZipInfo) -> bool:
    parts = entry.filename.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return entry.filename.lower().endswith(SUFFIXES) and not hidden

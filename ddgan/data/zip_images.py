"""A zip of images, with optional labels."""

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from PIL import Image

from ddgan.data.decoding import MAX_FILE_BYTES, decode_image
from ddgan.data.images import ImageDataset, Listing
from ddgan.data.labels import LABELS, Entries, labels_json, read_labels
from ddgan.data.storage import PatientFile, StorageError, patiently, printable
from ddgan.registry import DATASETS
from ddgan.utils.files import refusal

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@DATASETS.register_module()
class ImageZip(ImageDataset):
    """All images of a zip file, in the order of their names.

    Labels come from ``dataset.json`` in the zip, ``{"labels": [[name, integer], ...]}`` as
    StyleGAN's tools write it, with names relative to it, unless ``use_labels`` is off. Raises
    FileNotFoundError for a missing file, ValueError for one that is no zip, is encrypted or
    compressed in a way that cannot be read, has no images, has labels of another form, or names
    that lead out of the folder that it would be unpacked to. ``options`` and the other errors are
    those of ImageDataset.
    """

    def __init__(self, path: str | Path, use_labels: bool = True, **options: Any) -> None:
        self.path = Path(path)
        if not patiently(self.path.is_file, self.path):
            hint = "; for a folder use type='ImageFolder'" if self.path.is_dir() else ""
            raise FileNotFoundError(
                f"ImageZip: {self.path} is not a file{hint}; set path to your zip of images"
            )
        self._handle: zipfile.ZipFile | None = None
        self.listing, self._stored_names = self._list()
        self.listing.check(f"ImageZip: {printable(self.path)}")
        self.names = sorted(self.listing.images)
        if use_labels:
            self.labels = read_labels(self.listing.labels, self.names, self.path, self._read)
        super().__init__(f"zip {self.path}", len(self.names), **options)

    def image_name(self, index: int) -> str:
        """The path of the zip and the name of the image in it."""
        return printable(f"{self.path}:{self.names[index]}")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_handle": None}

    def _zip(self) -> zipfile.ZipFile:
        if self._handle is None:
            try:
                self._handle = zipfile.ZipFile(PatientFile(self.path))
            except StorageError:
                raise
            # zipfile raises nearly anything for damaged files.
            except Exception as error:
                raise ValueError(
                    f"ImageZip: {self.path} is not a whole zip file ({refusal(error)}); get it "
                    "again"
                ) from error
        return self._handle

    def _list(self) -> tuple[Listing, dict[str, str]]:
        """The names of the files, with slashes, and as which each of them is stored."""
        listing = Listing()
        stored_names = {}
        for entry in self._zip().infolist():
            _check_name(entry.filename, self.path)
            # Some programs of Windows store backslashes.
            name = entry.filename.replace("\\", "/")
            # Several entries of one name are versions of a file.
            if not name.endswith("/") and name not in stored_names:
                listing.add(name)
                stored_names[name] = entry.filename
        for name in (*listing.images, *listing.labels):
            _check_method(self._zip().getinfo(stored_names[name]), self.path)
        return listing, stored_names

    def _entry(self, name: str) -> zipfile.ZipInfo:
        return self._zip().getinfo(self._stored_names[name])

    def _read(self, name: str) -> bytes:
        # zipfile never unpacks more than the declared size.
        entry = self._entry(name)
        if entry.file_size > MAX_FILE_BYTES:
            raise ValueError(
                f"{entry.filename} unpacks to {entry.file_size} bytes, over the limit of "
                f"{MAX_FILE_BYTES}"
            )
        return self._zip().read(entry)

    def _decode(self, index: int) -> Image.Image:
        return decode_image(self._read(self.names[index]), self.channels)

    def _identity(self) -> Iterator[str]:
        for name in self.names:
            entry = self._entry(name)
            yield f"{name} {entry.file_size} {entry.CRC}"
        yield str(self.labels)


def _check_name(name: str, path: Path) -> None:
    # Nothing is ever unpacked to disk here, but such a file was made to do harm.
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ValueError(
            f"ImageZip: {path} has an entry {name!r}, which leads out of the zip's folder; do not "
            "unpack it before you know where it is from"
        )


def _check_method(entry: zipfile.ZipInfo, path: Path) -> None:
    if entry.flag_bits & 0x1:
        raise ValueError(
            f"ImageZip: {entry.filename!r} in {path} is encrypted; unpack the zip with its "
            "password and use the folder"
        )
    if entry.compress_type not in _METHODS:
        name = zipfile.compressor_names.get(entry.compress_type, entry.compress_type)
        raise ValueError(
            f"ImageZip: {entry.filename!r} in {path} is compressed with method {name}, which "
            "Python cannot read; unpack the zip and use the folder, or zip it with 'deflate'"
        )


def write_zip(path: Path, entries: Entries, count: int, shape: tuple[int, ...], size: int) -> None:
    """Store PNG files under StyleGAN's names, with its ``dataset.json`` of labels."""
    labels = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for i, (content, label) in enumerate(entries):
            name = f"{i // 1000:05d}/img{i:08d}.png"
            # The same bytes at whatever time it is made.
            file.writestr(zipfile.ZipInfo(name), content)
            labels.append([name, label])
        file.writestr(zipfile.ZipInfo(LABELS), labels_json(labels))

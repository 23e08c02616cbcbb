"""A zip of images, with optional labels."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from PIL import Image

from ddgan.data.decoding import MAX_FILE_BYTES, SUFFIXES, decode_image
from ddgan.data.images import HIDDEN, ImageDataset, LeftOut
from ddgan.data.labels import LABELS, Entries, choose_labels, labels_json, parse_labels
from ddgan.data.storage import PatientFile, StorageError, patiently
from ddgan.data.transforms import Transform
from ddgan.registry import DATASETS

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@DATASETS.register_module()
class ImageZip(ImageDataset):
    """All images of a zip file, in the order of their names.

    Labels come from ``dataset.json`` in the zip, ``{"labels": [[name, integer], ...]}`` as
    StyleGAN's tools write it, with names relative to it, unless ``use_labels`` is off. Raises
    FileNotFoundError for a missing file, ValueError for one that is no zip, is encrypted or
    compressed in a way that cannot be read, has no images, has labels of another form, or names
    that lead out of the folder that it would be unpacked to. The other arguments and errors are
    those of ImageDataset.
    """

    def __init__(
        self,
        path: str | Path,
        pipeline: Sequence[dict | Transform] = (),
        image_size: int | None = None,
        channels: int = 3,
        max_unreadable: int | None = 100,
        use_labels: bool = True,
    ) -> None:
        self.path = Path(path)
        if not patiently(self.path.is_file, self.path):
            hint = "; for a folder use type='ImageFolder'" if self.path.is_dir() else ""
            raise FileNotFoundError(
                f"ImageZip: {self.path} is not a file{hint}; set path to your zip of images"
            )
        self._handle: zipfile.ZipFile | None = None
        entries, label_files = self._list()
        if not entries:
            raise ValueError(
                f"ImageZip: there are no images in {self.path}, expected files that end in one "
                f"of {' '.join(SUFFIXES)}{self.left_out.text('; ')}"
            )
        self.names = sorted(entries)
        self._stored_names = [entries[name] for name in self.names]
        labels = choose_labels(list(label_files), self.path) if use_labels else None
        if labels is not None:
            content = self._read_labels(label_files[labels])
            self.labels = parse_labels(content, labels, self.names, self.path)
        super().__init__(
            f"zip {self.path}", len(self.names), pipeline, image_size, channels, max_unreadable
        )

    def image_name(self, index: int) -> str:
        """The path of the zip and the name of the image in it."""
        return f"{self.path}:{self.names[index]}"

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
                    f"ImageZip: {self.path} is not a whole zip file ({error}); get it again"
                ) from error
        return self._handle

    def _list(self) -> tuple[dict[str, str], dict[str, str]]:
        """Names with slashes, and as they are stored, of images and of ``dataset.json`` files."""
        images: dict[str, str] = {}
        labels: dict[str, str] = {}
        self.left_out = LeftOut()
        for entry in self._zip().infolist():
            _check_name(entry.filename, self.path)
            # Some programs of Windows store backslashes.
            name = entry.filename.replace("\\", "/")
            parts = name.split("/")
            if name.endswith("/"):
                continue
            if any(part.startswith(".") or part == "__MACOSX" for part in parts):
                self.left_out.add(HIDDEN, name)
            elif parts[-1] == LABELS or name.lower().endswith(SUFFIXES):
                _check_method(entry, self.path)
                (labels if parts[-1] == LABELS else images)[name] = entry.filename
            else:
                self.left_out.add_by_ending(name)
        return images, labels

    def _read(self, stored_name: str) -> bytes:
        # zipfile never unpacks more than the declared size.
        size = self._zip().getinfo(stored_name).file_size
        if size > MAX_FILE_BYTES:
            raise ValueError(
                f"{stored_name} unpacks to {size} bytes, over the limit of {MAX_FILE_BYTES}"
            )
        return self._zip().read(stored_name)

    def _decode(self, index: int) -> Image.Image:
        return decode_image(self._read(self._stored_names[index]), self.channels)

    def _identity(self) -> Iterator[str]:
        for name, stored_name in zip(self.names, self._stored_names, strict=True):
            entry = self._zip().getinfo(stored_name)
            yield f"{name} {entry.file_size} {entry.CRC}"
        yield str(self.labels)

    def _read_labels(self, stored_name: str) -> bytes:
        try:
            return self._read(stored_name)
        except StorageError:
            raise
        # zipfile raises nearly anything for damaged files.
        except Exception as error:
            raise ValueError(
                f"ImageZip: {stored_name} in {self.path} is damaged ({error}); get the file again, "
                "or set use_labels=False"
            ) from error


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

"""A folder of images."""

import errno
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from ddgan.data.decoding import decode_image
from ddgan.data.images import ImageDataset, Listing
from ddgan.data.labels import read_labels
from ddgan.data.storage import StorageError, patiently, printable, read_file
from ddgan.registry import DATASETS

# A TIFF of the largest image that is decoded, with 16 bits for each of four channels.
_MAX_FILE_BYTES = 1 << 30


@DATASETS.register_module()
class ImageFolder(ImageDataset):
    """All images in and below ``root``, in the order of their paths.

    Linked folders are searched, too, each folder once. What is left out (hidden files, other
    endings, links that lead nowhere, folders that may not be opened) is counted in the log.
    Labels come from a ``dataset.json``, with paths relative to it, as in ImageZip. Raises
    FileNotFoundError where there is no such folder, ValueError where it has no images or labels
    of another form. ``options`` and the other errors are those of ImageDataset.
    """

    def __init__(self, root: str | Path, use_labels: bool = True, **options: Any) -> None:
        self.root = Path(root)
        if not patiently(self.root.is_dir, self.root):
            hint = "; for a zip file use type='ImageZip'" if self.root.is_file() else ""
            raise FileNotFoundError(
                f"ImageFolder: {self.root} is not a folder{hint}; set root to your folder of images"
            )
        self.listing, self.num_links = _walk(self.root)
        self.listing.check(
            f"ImageFolder: {printable(self.root)}", "; set root to your folder of images"
        )
        self.paths = sorted(self.listing.images)
        if use_labels:
            self.labels = read_labels(self.listing.labels, self.paths, self.root, self._read)
        super().__init__(f"folder {self.root}", len(self.paths), **options)

    def image_name(self, index: int) -> str:
        """The path of the image."""
        return printable(self.root / self.paths[index])

    def _read(self, path: str) -> bytes:
        return read_file(self.root / path, _MAX_FILE_BYTES)

    def _decode(self, index: int) -> Image.Image:
        return decode_image(self._read(self.paths[index]), self.channels)

    def _identity(self) -> Iterator[str]:
        for path in self.paths:
            file = self.root / path
            yield f"{path} {patiently(lambda file=file: os.stat(file).st_size, file)}"
        if self.labels is not None:
            yield str(self.labels)


def _walk(root: Path) -> tuple[Listing, int]:
    """The files below ``root``, and the number of linked folders among those that were read."""
    listing = Listing()
    num_links = 0
    seen: set[tuple[int, int]] = set()
    # Links last, so that a folder is read under its own name if it has one below the root.
    folders, links = deque([root]), deque()
    while folders or links:
        is_link = not folders
        folder = links.popleft() if is_link else folders.popleft()
        name = folder.relative_to(root).as_posix()
        identity, entries = patiently(lambda folder=folder: _list(folder), folder)
        if identity in seen:
            listing.left_out["linked folders that are read already"].append(name)
            continue
        seen.add(identity)
        if entries is None:
            if folder == root:
                raise StorageError(f"{printable(root)} may not be opened: its permissions deny it")
            listing.left_out["folders that may not be opened"].append(name)
            continue
        num_links += is_link
        for entry in entries:
            path = Path(entry.path).relative_to(root).as_posix()
            kind = patiently(lambda entry=entry: _kind(entry), entry.path)
            if kind == "file" or entry.name.startswith("."):
                listing.add(path)
            elif kind == "folder":
                (links if entry.is_symlink() else folders).append(folder / entry.name)
            else:
                listing.left_out[kind].append(path)
    return listing, num_links


def _list(folder: Path) -> tuple[tuple[int, int], list[os.DirEntry] | None]:
    """The identity of a folder and its entries; None for one that may not be opened."""
    status = os.stat(folder)
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        found = None
    return (status.st_dev, status.st_ino), found


def _kind(entry: os.DirEntry) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except PermissionError:
        return "links that may not be followed"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    return "links that lead nowhere" if entry.is_symlink() else "no regular files"

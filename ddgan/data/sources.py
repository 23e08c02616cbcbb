"""Images in any form that this package reads, told apart by its files."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ddgan.data import cifar10
from ddgan.data.cifar10 import CIFAR10
from ddgan.data.decoding import to_image
from ddgan.data.folder import ImageFolder
from ddgan.data.images import ImageDataset, MisfitError
from ddgan.data.in_memory import BatchedDataset, InMemoryImages
from ddgan.data.lmdb_images import ImageLMDB
from ddgan.data.memmap import ImageMemmap
from ddgan.data.mnist import has_mnist_files, load_mnist_images
from ddgan.data.stacked import StackedMNIST
from ddgan.data.storage import PatientFile
from ddgan.data.zip_images import ImageZip
from ddgan.errors import UserError


class ArrayImages(ImageDataset):
    """The images of a data set in memory, with the transforms of images in files."""

    def __init__(self, data: BatchedDataset, **options: Any) -> None:
        self.data = data
        super().__init__(data.name, len(data), **options)

    def image_name(self, index: int) -> str:
        """The name of the data set and the number of the image in it."""
        return f"{self.name}:{index}"

    def label(self, index: int) -> int | None:
        """The label that the data set gives."""
        return self.data[index].get("label")

    def _decode(self, index: int) -> Image.Image:
        return to_image(self.data[index]["x"]).convert("RGB" if self.channels == 3 else "L")

    def _identity(self) -> Iterator[str]:
        yield self.data.digest()


def open_source(
    path: str | Path, split: str = "train", num_stacked: int | None = None, **options: Any
) -> ImageDataset:
    """The images in ``path``, whose kind is found out: folder, zip, LMDB, CIFAR-10, MNIST, .npy.

    ``split`` is that of CIFAR-10 and MNIST. With ``num_stacked`` MNIST gives so many stacked
    triples of digits. ``options`` are those of ImageDataset, but no image is replaced by another.
    Raises UserError where ``path`` is missing or of no known kind, or its images have different
    sizes.
    """
    path = Path(path)
    # Every image may be broken: they are named and left out, not replaced.
    options["max_unreadable"] = None
    try:
        arrays = _arrays(path, split, num_stacked)
        if arrays is not None:
            return ArrayImages(arrays, **options)
        if num_stacked is not None:
            raise UserError(f"{path} has no MNIST (IDX) files, which --stacked is for")
        return _kind(path)(path, **options)
    except ValueError as error:
        if isinstance(error.__cause__, MisfitError):
            raise UserError(
                f"the images have different sizes: {str(error).split('; bring')[0]}; bring "
                "them to one with --size N (and --crop centre)"
            ) from None
        raise


def _arrays(path: Path, split: str, num_stacked: int | None) -> BatchedDataset | None:
    """The data set in memory that ``path`` holds, None where it holds images in files."""
    if path.is_dir() and ((path / cifar10.FOLDER).is_dir() or (path / "data_batch_1").is_file()):
        return CIFAR10(path, split)
    if path.is_dir() and has_mnist_files(path):
        if num_stacked is not None:
            return StackedMNIST(path, split, num_samples=num_stacked)
        images, labels = load_mnist_images(path, split)
        return InMemoryImages(f"mnist-{split}", torch.tensor(images)[:, None], labels)
    return ImageMemmap(path) if path.suffix == ".npy" and path.is_file() else None


def _kind(path: Path) -> type[ImageDataset]:
    if path.is_dir():
        return ImageLMDB if (path / "data.mdb").is_file() else ImageFolder
    if not path.exists():
        raise UserError(f"{path} does not exist; name a folder, zip file or LMDB of images")
    if path.suffix in (".lmdb", ".mdb"):
        return ImageLMDB
    if path.suffix == ".zip" or zipfile.is_zipfile(PatientFile(path)):
        return ImageZip
    raise UserError(
        f"{path} is neither a folder nor a zip, LMDB or .npy file of images; unpack it if it is "
        "an archive of another kind"
    )

"""A folder of images."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ddgan.data.decoding import SUFFIXES, decode_image
from ddgan.data.images import ImageDataset
from ddgan.data.transforms import Transform
from ddgan.registry import DATASETS


@DATASETS.register_module()
class ImageFolder(ImageDataset):
    """All images in and below ``root``, in the order of their paths; hidden files are left out.

    Raises FileNotFoundError where there is no such folder, ValueError where it has no images.
    The other arguments and errors are those of ImageDataset.
    """

    def __init__(
        self,
        root: str | Path,
        pipeline: Sequence[dict | Transform] = (),
        image_size: int | None = None,
        channels: int = 3,
        max_unreadable: int = 100,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            hint = "; for a zip file use type='ImageZip'" if self.root.is_file() else ""
            raise FileNotFoundError(
                f"ImageFolder: {self.root} is not a folder{hint}; set root to your folder of images"
            )
        self.paths = sorted(_walk(self.root))
        if not self.paths:
            raise ValueError(
                f"ImageFolder: there are no images in {self.root} or below it, expected files "
                f"that end in one of {' '.join(SUFFIXES)}; set root to your folder of images"
            )
        super().__init__(
            f"folder {self.root}", len(self.paths), pipeline, image_size, channels, max_unreadable
        )

    def image_name(self, index: int) -> str:
        """The path of the image."""
        return str(self.root / self.paths[index])

    def _decode(self, index: int) -> Image.Image:
        return decode_image(self.root / self.paths[index], self.channels)

    def _identity(self) -> Iterator[str]:
        for path in self.paths:
            yield f"{path} {os.stat(self.root / path).st_size}"


def _walk(root: Path) -> Iterator[str]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()

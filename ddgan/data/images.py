"""What all data sets of image files share: one shape, and what becomes of unreadable images."""

import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import torch
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from ddgan.data.decoding import FORMATS, SUFFIXES, USED_BITS, to_tensor
from ddgan.data.labels import LABELS
from ddgan.data.storage import StorageError, printable
from ddgan.data.transforms import Transform, build_pipeline
from ddgan.errors import UserError
from ddgan.utils.files import refusal, sha256

_PROBES = 8
_NAMED = 5
# The reason for files that nobody expects to be read.
HIDDEN = "hidden"


class TooManyUnreadableError(UserError):
    """More images of a data set are unreadable than the run may leave out."""


class UnreadableError(ValueError):
    """An image that cannot be decoded."""


class MisfitError(ValueError):
    """An image that does not have the shape of the data set."""


class Listing:
    """The files of a folder or archive: ``images``, ``labels`` files, and those left out.

    ``left_out`` maps a reason to the names.
    """

    def __init__(self) -> None:
        self.images: list[str] = []
        self.labels: list[str] = []
        self.left_out: dict[str, list[str]] = defaultdict(list)

    def add(self, path: str) -> None:
        """Sort a file in by its name."""
        *folders, name = path.split("/")
        ending = PurePosixPath(name).suffix.lower()
        if name.startswith(".") or any(f.startswith(".") or f == "__MACOSX" for f in folders):
            self.left_out[HIDDEN].append(path)
        elif name == LABELS:
            self.labels.append(path)
        elif ending in SUFFIXES:
            self.images.append(path)
        else:
            reason = f"{printable(ending)} files" if ending else "files without an ending"
            self.left_out[reason].append(path)

    def check(self, where: str, hint: str = "") -> None:
        """Raise ValueError, which ends with ``hint``, if there are no images."""
        if not self.images:
            raise ValueError(
                f"{where}: there are no images in it, expected files that end in one of "
                f"{' '.join(SUFFIXES)}{hint}{self.summary('; ')}"
            )

    def summary(self, joint: str = "") -> str:
        """What is left out, with an example of each reason, after ``joint``; empty for nothing."""
        parts = []
        for reason, names in sorted(self.left_out.items()):
            more = ", ..." if len(names) > 1 else ""
            example = "" if reason == HIDDEN else f" ({printable(names[0])}{more})"
            parts.append(f"{len(names)} {reason}{example}")
        return f"{joint}left out: {', '.join(parts)}" if parts else ""


class ImageDataset(Dataset, ABC):
    """Images decoded on access, uint8 (C, H, W), all of one shape.

    A subclass defines ``image_name``, ``_decode`` and ``_identity``, sets ``labels`` and
    ``listing`` where it has them, and passes its ``options`` on: ``pipeline`` of transforms,
    ``image_size`` that all images have after it (None: that of the first), ``channels`` (3: RGB,
    1: grey), ``max_unreadable``. An image that cannot be decoded, or has another shape after the
    pipeline, is logged once with its name and replaced by the next good one; more than
    ``max_unreadable`` different ones raise TooManyUnreadableError; None, for those who call
    ``image`` alone, neither logs nor limits. The count is common to the worker processes of a
    data loader. At construction a few images are read, and there a wrong shape is a ValueError.
    Storage that is away raises StorageError, and no image counts as unreadable for it.
    """

    labels: list[int] | None = None
    listing: Listing | None = None

    def __init__(
        self,
        name: str,
        num_images: int,
        pipeline: Sequence[dict | Transform] = (),
        image_size: int | None = None,
        channels: int = 3,
        max_unreadable: int | None = 100,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"{name}: channels is {channels}, expected 3 (RGB) or 1 (grey)")
        self.name = printable(name)
        if max_unreadable is not None and self.listing is not None and self.listing.left_out:
            self._log(f"{self.name}: {num_images} images; {self.listing.summary()}")
        self.channels = channels
        self.pipeline = build_pipeline(pipeline)
        self.max_unreadable = max_unreadable
        self._reason = ""
        self._dim_noted = False
        self._unreadable = torch.zeros(num_images, dtype=torch.uint8)
        try:
            # Worker processes see each other's finds.
            self._unreadable.share_memory_()
        except RuntimeError as error:
            self._log(f"/dev/shm cannot be used ({error}): each process counts for itself")
        self.image_shape = None if image_size is None else (channels, image_size, image_size)
        self._probe()

    @abstractmethod
    def image_name(self, index: int) -> str:
        """Where the image is, for messages."""

    @abstractmethod
    def _decode(self, index: int) -> Image.Image:
        """Read and decode one image; any exception but StorageError means it is unreadable."""

    def label(self, index: int) -> int | None:
        """The label of the image, None where it has none."""
        return None if self.labels is None else self.labels[index]

    @abstractmethod
    def _identity(self) -> Iterable[str]:
        """Lines that change when the stored images do."""

    def digest(self) -> str:
        """A SHA-256 string of the names and sizes of the images, and of the pipeline."""
        lines = [repr(self.pipeline), str(self.image_shape), *self._identity()]
        return sha256("\n".join(lines).encode("utf-8", "surrogateescape"))

    @property
    def unreadable(self) -> list[str]:
        """The names of the images found unreadable so far."""
        return [self.image_name(i) for i in self._unreadable.nonzero().flatten().tolist()]

    def __len__(self) -> int:
        return len(self._unreadable)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} is outside 0..{len(self) - 1}")
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            if self._unreadable[candidate]:
                continue
            try:
                item = {"x": self.image(candidate), "index": candidate}
            except (UnreadableError, MisfitError) as error:
                self._report(candidate, error)
                continue
            label = self.label(candidate)
            return item if label is None else {**item, "label": label}
        raise self._too_many()

    def image(self, index: int) -> Tensor:
        """The image itself, uint8 (C, H, W), with no other in its place.

        Raises UnreadableError or MisfitError, both ValueErrors, where it cannot be used.
        """
        try:
            image = self._decode(index)
        except StorageError:
            raise
        except UnidentifiedImageError:
            raise UnreadableError(f"no image of the formats {', '.join(FORMATS)}") from None
        # Decoders raise nearly anything on damaged data.
        except Exception as error:
            raise UnreadableError(f"{type(error).__name__}: {refusal(error)}") from error
        if (bits := image.info.get(USED_BITS)) and not self._dim_noted:
            self._dim_noted = True
            self._log(
                f"{self.image_name(index)} has 16 bits but uses only the lowest {bits}: "
                "it becomes (nearly) black, and others may, too. Scale the values to 0..65535"
            )
        try:
            for transform in self.pipeline:
                image = transform(image)
        except ValueError as error:
            raise MisfitError(str(error)) from error
        x = to_tensor(image)
        if self.image_shape is None:
            self.image_shape = tuple(x.shape)
        if tuple(x.shape) != self.image_shape:
            raise MisfitError(
                f"it is {image.width}x{image.height} (width x height) after the pipeline, "
                f"expected {self.image_shape[2]}x{self.image_shape[1]}; bring all images to one "
                "size with pipeline=[dict(type='CentreCrop'), dict(type='Resize', size=...)]"
            )
        return x

    def _probe(self) -> None:
        count = min(_PROBES, len(self))
        for i in range(count):
            self._check_fit(i * len(self) // count)
        if self.image_shape is None:
            # All of them were unreadable: find the first that is not, within the limit.
            self[0]

    def _check_fit(self, index: int) -> None:
        try:
            self.image(index)
        except UnreadableError as error:
            self._report(index, error)
        except MisfitError as error:
            raise ValueError(f"{self.image_name(index)}: {error}") from error

    def _report(self, index: int, error: Exception) -> None:
        if self._unreadable[index]:
            return
        self._unreadable[index] = 1
        self._reason = self._reason or f"{self.image_name(index)}: {error}"
        if self.max_unreadable is None:
            return
        found = int(self._unreadable.sum())
        self._log(
            f"unreadable image {self.image_name(index)} ({error}); the next readable one takes "
            f"its place. {found} found so far, more than {self.max_unreadable} stop the run"
        )
        if found > self.max_unreadable:
            raise self._too_many()

    def _too_many(self) -> TooManyUnreadableError:
        names = self.unreadable
        listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        allowed = ""
        if self.max_unreadable is not None and len(names) > self.max_unreadable:
            allowed = f", more than max_unreadable={self.max_unreadable} allows"
        return TooManyUnreadableError(
            f"{self.name}: {len(names)} of {len(self)} images are unreadable{allowed}: {listed}. "
            f"The first reason: {self._reason or 'in the log'}. Repair or remove them, or raise "
            "max_unreadable"
        )

    def _log(self, text: str) -> None:
        print_log(text, "current", logging.WARNING)

"""CIFAR-10 from its published Python form, read without letting the pickles run any code."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from ddgan.data.in_memory import InMemoryImages
from ddgan.data.storage import patiently, read_file
from ddgan.registry import DATASETS
from ddgan.utils.files import refusal
from ddgan.utils.pickled_arrays import ArrayUnpickler, PickledArray

_MAX_FILE_BYTES = 1 << 30
FOLDER = "cifar-10-batches-py"
FILES = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
# MD5 digests of the published files.
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
HOW_TO_GET = (
    "Get the Python version, cifar-10-python.tar.gz, from "
    "https://www.cs.toronto.edu/~kriz/cifar.html, unpack it with 'tar -xzf', and set root to the "
    f"folder that holds {FOLDER}"
)


@DATASETS.register_module()
class CIFAR10(InMemoryImages):
    """The 50,000 training or 10,000 test images of CIFAR-10 (Krizhevsky, 2009), 3x32x32.

    ``root`` is the folder ``cifar-10-batches-py`` or the one that holds it. ``verify`` compares
    each file with its published MD5 digest. Raises FileNotFoundError for a missing file, and
    ValueError for a wrong digest or a file of another form.
    """

    def __init__(self, root: str | Path, split: str = "train", verify: bool = True) -> None:
        if split not in FILES:
            raise ValueError(f"CIFAR10: split is {split!r}, expected one of {sorted(FILES)}")
        folder = Path(root)
        if (folder / FOLDER).is_dir():
            folder = folder / FOLDER
        batches = [_load_batch(folder / name, verify) for name in FILES[split]]
        images = np.concatenate([images for images, _ in batches])
        labels = np.concatenate([labels for _, labels in batches])
        super().__init__(f"cifar10-{split}", torch.from_numpy(images), labels)


def _load_batch(path: Path, verify: bool) -> tuple[np.ndarray, np.ndarray]:
    if not patiently(path.is_file, path):
        raise FileNotFoundError(f"CIFAR-10: {path} is missing. {HOW_TO_GET}")
    content = read_file(path, _MAX_FILE_BYTES)
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if verify and md5 != MD5[path.name]:
        raise ValueError(
            f"CIFAR-10: {path} has MD5 {md5}, expected {MD5[path.name]}: the file is damaged or "
            f"not the published one. {HOW_TO_GET}"
        )
    try:
        return _arrays(ArrayUnpickler(content).load())
    # A damaged pickle can raise nearly any exception.
    except Exception as error:
        raise ValueError(f"CIFAR-10: {path} is not a CIFAR-10 batch: {refusal(error)}") from error


def _arrays(batch: object) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(batch, dict):
        raise ValueError(f"it holds a {type(batch).__name__}, expected a dict")
    fields = {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in batch.items()}
    data, labels = fields["data"], fields["labels"]
    values = data.values if isinstance(data, PickledArray) else np.empty(0)
    if values.dtype != np.uint8 or values.ndim != 2 or values.shape[1] != 3072:
        raise ValueError("its 'data' is not a uint8 array of shape (N, 3072)")
    if len(labels) != len(values) or any(type(x) is not int or not 0 <= x <= 9 for x in labels):
        raise ValueError("its 'labels' are not one integer of 0..9 for each image")
    # A row is the red plane, the green and the blue, each row by row: already (C, H, W).
    images = values.reshape(-1, 3, 32, 32)
    return images, np.asarray(labels, dtype=np.int64)

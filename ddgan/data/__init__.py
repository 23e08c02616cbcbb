"""Data sets, their deterministic transforms, and the sampler that gives training its order."""

from .cifar10 import CIFAR10
from .folder import ImageFolder
from .gaussians import Gaussians25
from .idx import read_idx
from .in_memory import InMemoryImages
from .lmdb_images import ImageLMDB
from .pictures import PictureDataset, TooManyUnreadableError
from .samplers import ResumableSampler, check_batch_size
from .stacked import StackedDigits, StackedImages, StackedMNIST, load_digit_images
from .transforms import CentreCrop, Resize
from .zip_images import ImageZip

__all__ = [
    "CIFAR10",
    "CentreCrop",
    "Gaussians25",
    "ImageFolder",
    "ImageLMDB",
    "ImageZip",
    "InMemoryImages",
    "PictureDataset",
    "Resize",
    "ResumableSampler",
    "StackedDigits",
    "StackedImages",
    "StackedMNIST",
    "TooManyUnreadableError",
    "check_batch_size",
    "load_digit_images",
    "read_idx",
]

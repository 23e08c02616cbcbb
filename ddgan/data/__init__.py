"""Data sets, deterministic transforms, and the sampler that gives training its order."""

from ddgan.data.cifar10 import CIFAR10
from ddgan.data.folder import ImageFolder
from ddgan.data.gaussians import Gaussians25
from ddgan.data.images import ImageDataset, TooManyUnreadableError
from ddgan.data.in_memory import InMemoryImages, collate
from ddgan.data.lmdb_images import ImageLMDB
from ddgan.data.memmap import ImageMemmap
from ddgan.data.mnist import load_mnist_images, read_idx
from ddgan.data.samplers import ResumableSampler, check_batch_size
from ddgan.data.stacked import (
    StackedDigits,
    StackedImages,
    StackedMNIST,
    load_digit_images,
)
from ddgan.data.storage import StorageError
from ddgan.data.transforms import CentreCrop, Resize
from ddgan.data.zip_images import ImageZip

__all__ = [
    "CIFAR10",
    "CentreCrop",
    "Gaussians25",
    "ImageDataset",
    "ImageFolder",
    "ImageLMDB",
    "ImageMemmap",
    "ImageZip",
    "InMemoryImages",
    "Resize",
    "ResumableSampler",
    "StackedDigits",
    "StackedImages",
    "StackedMNIST",
    "StorageError",
    "TooManyUnreadableError",
    "check_batch_size",
    "collate",
    "load_digit_images",
    "load_mnist_images",
    "read_idx",
]

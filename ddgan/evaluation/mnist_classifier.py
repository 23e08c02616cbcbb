"""The classifier that tells the 1000 modes of StackedMNIST apart, trained at first use."""

import functools
import logging
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from ddgan.data import StackedMNIST, load_mnist_images
from ddgan.evaluation.cache import cache_root, key_of, load_tensors, save_tensors
from ddgan.evaluation.features import Progress, no_progress
from ddgan.evaluation.modes import ModeCoverage, mode_coverage, stacked_distribution
from ddgan.registry import MODELS
from ddgan.utils.files import sha256

# Raise this whenever the network, its training or the numbers below change.
RECIPE_VERSION = 1
SIDE = 28
EPOCHS = 2
BATCH = 128
LEARNING_RATE = 3e-3
WARM_UP = 0.2
_CHUNK = 1_000


class MnistClassifier(nn.Module):
    """A convolutional network of 422,154 parameters on grey digits of 28x28 pixels.

    ``mnist_classifier`` sets ``test_digits``, its answers on the test split of its training data,
    and ``held_out_accuracy``, the share of correct ones.
    """

    feature_dim = 128

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, self.feature_dim),
            nn.ReLU(),
        )
        self.logits = nn.Linear(self.feature_dim, 10)
        self.test_digits = np.empty(0, dtype=np.int64)
        self.held_out_accuracy = float("nan")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 10) for the centres of uint8 images (N, H, W)."""
        return self.logits(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        """The features (N, 128) before the logits, for uint8 images (N, H, W)."""
        height, width = images.shape[-2:]
        if images.dtype != torch.uint8 or images.ndim != 3 or min(height, width) < SIDE:
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}; expected uint8 (N, H, W), at "
                f"least {SIDE}x{SIDE}"
            )
        top, left = (height - SIDE) // 2, (width - SIDE) // 2
        centre = images[:, None, top : top + SIDE, left : left + SIDE]
        return self.features(centre.float() / 255)

    @torch.no_grad()
    def digits(self, images: Tensor) -> Tensor:
        """The digits (N,), int64 in 0..9, on uint8 images (N, H, W); on the CPU."""
        device = self.logits.weight.device
        parts = [self(chunk.to(device)).argmax(dim=1).cpu() for chunk in images.split(_CHUNK)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def modes(self, images: Tensor) -> np.ndarray:
        """The labels (N,), int64 in 0..999, of stacked digits (N, 3, H, W) uint8.

        The label is 100 a + 10 b + c for the digits a, b, c in the first to third channel.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images are {tuple(images.shape)}; expected (N, 3, H, W)")
        digits = self.digits(images.flatten(0, 1)).reshape(-1, 3)
        return digits.numpy() @ np.array([100, 10, 1])


def mnist_classifier(root: str | Path, progress: Progress = no_progress) -> MnistClassifier:
    """The classifier of the MNIST, or a set of its format, in ``root``; on the CPU.

    It is trained at the first call, for half a minute on one core, and then kept in the cache
    folder under a key of the data and the recipe. Raises the errors of load_mnist_images.
    """
    images, labels = (torch.from_numpy(a.copy()) for a in load_mnist_images(root, "train"))
    digest = sha256(str(tuple(images.shape)).encode(), images.numpy().data, labels.numpy().data)
    identity = {"classifier": "mnist", "recipe": RECIPE_VERSION, "data": digest}
    path = cache_root() / "classifiers" / f"{key_of(identity)}.safetensors"
    classifier = MnistClassifier()
    state = load_tensors(path, identity)
    if state is None:
        print_log(f"training the digit classifier of {root}, once: {path}", "current")
        classifier = train_classifier(images, labels, progress)
        save_tensors(path, classifier.state_dict(), identity)
    else:
        classifier.load_state_dict(state)
    test_images, test_labels = load_mnist_images(root, "test")
    classifier.test_digits = classifier.digits(torch.from_numpy(test_images.copy())).numpy()
    classifier.held_out_accuracy = float((classifier.test_digits == test_labels).mean())
    if classifier.held_out_accuracy < 0.985:
        print_log(
            f"the digit classifier of {root} is right on {classifier.held_out_accuracy:.2%} of the "
            "test images, which limits the counts of modes; MNIST itself gives 98.9 %",
            "current",
            logging.WARNING,
        )
    return classifier.eval()


def train_classifier(
    images: Tensor, labels: Tensor, progress: Progress = no_progress
) -> MnistClassifier:
    """Train a classifier on uint8 images (N, H, W) and their digits (N,).

    It depends only on these: torch's random state is neither used nor changed.
    """
    steps = EPOCHS * ((len(images) + BATCH - 1) // BATCH)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        classifier = MnistClassifier()
        optimizer = torch.optim.Adam(classifier.parameters())
        step = 0
        with progress("training the digit classifier", steps) as advance:
            for batch in (
                b for _ in range(EPOCHS) for b in torch.randperm(len(images)).split(BATCH)
            ):
                step += 1
                scale = min(step / (WARM_UP * steps), (steps - step + 1) / ((1 - WARM_UP) * steps))
                optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(scale, 1.0)
                loss = F.cross_entropy(classifier(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                advance(1)
    return classifier.eval().requires_grad_(False)


@functools.cache
def stacked_mnist_distribution(root: str | Path) -> np.ndarray:
    """The probabilities (1000,) of the modes of StackedMNIST."""
    return stacked_distribution(load_mnist_images(root, "train")[1])


def real_mode_coverage(classifier: MnistClassifier, root: str | Path, num: int) -> ModeCoverage:
    """The coverage of ``num`` real triples of the test split.

    They are classified like samples, so this is the best that a perfect generator can reach.
    """
    data = StackedMNIST(root, "test", num_samples=num)
    # A digit looks the same in whatever channel and triple.
    labels = classifier.test_digits[data.triples(np.arange(num))] @ np.array([100, 10, 1])
    return mode_coverage(labels, 1000, stacked_mnist_distribution(root))


@MODELS.register_module()
class MnistFeatures(nn.Module):
    """The digit classifier's features of the three channels of StackedMNIST, concatenated.

    ``root`` holds MNIST's IDX files; the classifier is trained on them at first use.
    """

    name = "mnist-classifier"
    feature_dim = 3 * MnistClassifier.feature_dim

    def __init__(self, root: str | Path) -> None:
        super().__init__()
        self.classifier = mnist_classifier(root)
        weights = self.classifier.state_dict().values()
        self.weights_digest = sha256(*(value.numpy().data for value in weights))

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The features (N, 384) of uint8 images (N, 3, H, W), at least 28x28."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images are {tuple(images.shape)}; expected uint8 (N, 3, H, W)")
        features = self.classifier.embed(images.flatten(0, 1))
        return {"features": features.reshape(len(images), self.feature_dim)}

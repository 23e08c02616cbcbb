"""Feature extractors: what metrics see of an image."""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddgan.errors import CheckpointError
from ddgan.evaluation.optional_packages import import_torch_fidelity
from ddgan.evaluation.weights import PublishedWeights, read_state_dict
from ddgan.registry import MODELS
from ddgan.utils.files import sha256

INCEPTION_WEIGHTS = PublishedWeights(
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
VGG16_WEIGHTS = PublishedWeights(
    "vgg16-397923af.pth",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)


class FeatureExtractor(nn.Module, ABC):
    """A frozen network that turns images into features.

    ``name`` and ``weights_digest``, the SHA-256 of the weights, tell one extractor from all
    others, and ``feature_dim`` is the D of its features. A subclass defines ``_extract`` and does
    its own resizing there.
    """

    def __init__(self, name: str, feature_dim: int, weights_digest: str) -> None:
        super().__init__()
        self.name = name
        self.feature_dim = feature_dim
        self.weights_digest = weights_digest

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return "features" (N, D), and of some extractors "logits", float32, for uint8 images.

        Images are (N, 3, H, W), or (N, 1, H, W), of which the channel is repeated. Raises
        ValueError for others.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}; expected uint8 (N, 3, H, W), or "
                "(N, 1, H, W) of grey images"
            )
        return self._extract(images.expand(-1, 3, -1, -1))

    @abstractmethod
    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs for uint8 (N, 3, H, W)."""


class _TorchFidelityExtractor(FeatureExtractor):
    """A network of torch-fidelity, with its resizing, and weights read without executing code."""

    published: ClassVar[PublishedWeights]
    registered_name: ClassVar[str]
    # The name of each output here and there.
    outputs: ClassVar[Mapping[str, str]]

    def __init__(self, name: str, feature_dim: int, weights: str | None) -> None:
        registry = import_torch_fidelity()
        path, digest = self.published.find(weights)
        super().__init__(name, feature_dim, digest)
        # torch-fidelity unpickles what it is given, so it is given what was read and written anew.
        safe = io.BytesIO()
        torch.save(read_state_dict(path), safe)
        safe.seek(0)
        build = registry.FEATURE_EXTRACTORS_REGISTRY[self.registered_name]
        try:
            self.network = build(
                self.registered_name,
                list(self.outputs.values()),
                feature_extractor_weights_path=safe,
            )
        except RuntimeError as error:
            raise misfit(path, self.published.file, error) from None

    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.outputs, self.network(images), strict=True))


@MODELS.register_module()
class InceptionExtractor(_TorchFidelityExtractor):
    """The Inception network of 2015 that defines FID, IS and KID, as torch-fidelity ports it.

    "features" (N, 2048) are the last average pool, "logits" (N, 1008) what the inception score
    takes, without the bias. Images are enlarged to 299x299 bilinearly as TensorFlow 1 did.
    ``weights`` is a file to use instead of the published one. (Heusel et al. 2017; Salimans et
    al. 2016; Obukhov et al. 2020.)
    """

    published = INCEPTION_WEIGHTS
    registered_name = "inception-v3-compat"
    outputs: ClassVar = {"features": "2048", "logits": "logits_unbiased"}

    def __init__(self, weights: str | None = None) -> None:
        super().__init__("inception_fid", 2048, weights)


@MODELS.register_module()
class VGG16Extractor(_TorchFidelityExtractor):
    """VGG16 of torchvision, trained on ImageNet: 4096 features after the second hidden layer.

    The space of improved precision and recall, of density and coverage, and of the nearest
    neighbours in DDGAN's Fig. 16 and 17. Images are resized to 224x224 as by InceptionExtractor.
    ``weights`` is a file to use instead of the published one. (Simonyan & Zisserman 2015;
    Kynkäänniemi et al. 2019, Sec. 2.)
    """

    published = VGG16_WEIGHTS
    registered_name = "vgg16"
    outputs: ClassVar = {"features": "fc2_relu"}

    def __init__(self, weights: str | None = None) -> None:
        super().__init__("vgg16_fc2", 4096, weights)


@MODELS.register_module()
class PixelExtractor(FeatureExtractor):
    """The pixels themselves, in [0, 1] and as one vector, of images of ``image_shape`` (C, H, W).

    Distances between these features are those between images. Nothing is resized.
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        shape = tuple(image_shape)
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(f"image_shape is {shape}; expected (1 or 3, H, W)")
        name = "pixels_" + "x".join(map(str, shape))
        super().__init__(name, prod(shape), sha256(name.encode()))
        self.image_shape = shape

    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        images = images[:, : self.image_shape[0]]
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"images have shape {tuple(images.shape[1:])}, but image_shape is "
                f"{self.image_shape}; expected the same"
            )
        return {"features": images.flatten(1).float() / 255}


def misfit(path: object, what: str, error: object) -> CheckpointError:
    """Return the error of weights that are not of the network that they are to be used in."""
    return CheckpointError(f"{path} does not hold the weights of {what}: {error}")


def normalised(
    images: Tensor,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    mode: str = "bicubic",
) -> Tensor:
    """Return uint8 images resized to (H, W), antialiased, in [0, 1], less ``mean`` over ``std``.

    Resized images are rounded to whole grey levels, as those of an imaging library are.
    """
    x = images.float()
    if tuple(images.shape[-2:]) != tuple(size):
        x = F.interpolate(x, tuple(size), mode=mode, antialias=True, align_corners=False)
        x = x.round().clamp(0, 255)
    scale, shift = (x.new_tensor(list(v))[:, None, None] for v in (std, mean))
    return (x / 255 - shift) / scale

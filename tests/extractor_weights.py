"""Files of random weights in the form in which the networks' authors publish theirs."""

from unittest import mock

import torch
from torch import nn

from ddgan.evaluation.pretrained import import_timm, import_torch_fidelity


def write_inception(path):
    """Write weights with which the activations neither die out nor explode."""
    registry = import_torch_fidelity()
    build = registry.FEATURE_EXTRACTORS_REGISTRY["inception-v3-compat"]
    with (
        mock.patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"),
        mock.patch.object(nn.Module, "load_state_dict"),
    ):
        network = build("inception-v3-compat", ["2048"])
    torch.manual_seed(0)
    state = network.state_dict()
    for name, value in state.items():
        if value.ndim > 1:
            state[name] = torch.randn(value.shape) * (2 / value[0].numel()) ** 0.5
    torch.save(state, path)
    return path


def write_vgg16(path):
    """Write weights that take little space: the rows of a tensor are windows of one row."""
    import_torch_fidelity()
    import torchvision

    with torch.device("meta"):
        shapes = {k: v.shape for k, v in torchvision.models.vgg16().state_dict().items()}
    torch.manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            state[name] = torch.zeros(1).expand(shape)
            continue
        fan_in = shape[1:].numel()
        row = torch.randn(fan_in + shape[0]) * (2 / fan_in) ** 0.5
        state[name] = row.as_strided(shape, (1, *torch.empty(shape[1:], device="meta").stride()))
    torch.save(state, path)
    return path


def write_dinov2(path):
    """Write those of the small network, for 37 x 37 patches as those that are published."""
    timm = import_timm()
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    state = {"mask_token": torch.zeros(1, 384), **network.state_dict()}
    for name, value in state.items():
        if name in ("pos_embed", "cls_token") or name.endswith("gamma"):
            state[name] = torch.randn(value.shape) * 0.2
    torch.save(state, path)
    return path


def write_timm(path, model_name):
    """Write those of a network of timm."""
    torch.manual_seed(0)
    torch.save(import_timm().create_model(model_name).state_dict(), path)
    return path

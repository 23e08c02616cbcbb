"""Data-parallel and compiled networks of a model, whose names in checkpoints do not change."""

import inspect

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# The networks' buffers are constants; the option was renamed in torch 2.13.
_BUFFERS_STAY = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else {"broadcast_buffers": False}
)


def ddp_modules(model: nn.Module, device: torch.device) -> dict[str, DistributedDataParallel]:
    """A DDP module around each child that has trainable parameters, by the child's name."""
    device_ids = [device.index] if device.type == "cuda" else None
    return {
        name: DistributedDataParallel(child, device_ids=device_ids, **_BUFFERS_STAY)
        for name, child in model.named_children()
        if any(parameter.requires_grad for parameter in child.parameters())
    }


def compile_networks(model: nn.Module) -> None:
    """Compile each child that has parameters, in place."""
    for child in model.children():
        if any(True for _ in child.parameters()):
            child.compile()

"""What a notebook imports: load weights, draw samples."""

from pathlib import Path

import torch

from ddgan.engine.checkpoint import load_state, read_weights
from ddgan.engine.config import check_trusted_types
from ddgan.engine.distributed import select_device
from ddgan.engine.memory import activation_bytes, fitting_batch_size
from ddgan.models import GenerativeModel
from ddgan.registry import MODELS

__all__ = ["auto_batch_size", "load_model"]


def load_model(path: str | Path, device: str = "auto") -> GenerativeModel:
    """Return the model of a release file (.safetensors) or training checkpoint (iter_N.pth).

    The file carries the config that rebuilds the model; nothing in it is executed. The model is in
    evaluation mode on ``device`` (``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``). A release
    file may hold the averaged generator alone: then ``model.generator`` is set to it as well.
    Raises CheckpointError or ConfigError if the file is missing, damaged, unsafe or of a model
    that no imported package registers.
    """
    target = select_device(device)
    config, state, _ = read_weights(path)
    check_trusted_types(config.model)
    model = MODELS.build(config.model)
    if not any(name.startswith("generator.") for name in state):
        state |= {
            name.replace("generator_ema.", "generator.", 1): tensor
            for name, tensor in state.items()
            if name.startswith("generator_ema.")
        }
    load_state(model, state, path, optional=("discriminator.", "_extra_state"))
    return model.to(target).eval()


def auto_batch_size(model: GenerativeModel) -> int:
    """Return how many samples of ``model`` can be drawn at once in the memory at hand."""
    one = torch.zeros(1, dtype=torch.int64)
    latent_dim = model.generator_ema.latent_dim
    z = torch.zeros(1, latent_dim) if latent_dim else None
    x = torch.zeros(1, *model.data_shape)
    return fitting_batch_size(activation_bytes(model.generator_ema, x, one, z), model.device)

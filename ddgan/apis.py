"""What a notebook imports: load weights, draw samples, edit images."""

from pathlib import Path

from ddgan.data.decoding import read_image
from ddgan.editing import edit, inpaint, interpolate
from ddgan.engine.checkpoint import load_weights, read_weights
from ddgan.engine.config import check_trusted_types
from ddgan.errors import CheckpointError, UserError
from ddgan.models import GenerativeModel
from ddgan.registry import MODELS
from ddgan.utils.device import activation_bytes, fitting_batch_size
from ddgan.utils.distributed import select_device
from ddgan.utils.files import refusal

__all__ = ["auto_batch_size", "edit", "inpaint", "interpolate", "load_model", "read_image"]


def load_model(path: str | Path, device: str = "auto") -> GenerativeModel:
    """Load the model of a release file (.safetensors) or training checkpoint (iter_N.pth).

    The file carries the config that rebuilds the model; nothing in it is executed. The model is in
    evaluation mode on ``device`` (``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``). A release
    file may hold the averaged generator alone: then ``model.generator`` is set to it as well.
    Raises CheckpointError or ConfigError if the file is missing, damaged, unsafe or of a model
    that no imported package registers.
    """
    target = select_device(device)
    config, state, _ = read_weights(path)
    check_trusted_types(config.model)
    try:
        model = MODELS.build(config.model)
    except UserError:
        raise
    # Components raise nearly anything for the arguments in a damaged file.
    except Exception as error:
        raise CheckpointError(
            f"the model that {path} describes cannot be built ({type(error).__name__}: "
            f"{refusal(error)}); take another file"
        ) from error
    load_weights(model, state, path)
    return model.to(target).eval()


def auto_batch_size(model: GenerativeModel) -> int:
    """Number of samples of ``model`` that can be drawn at once in the memory at hand."""
    network = model.generator_ema
    inputs = [None if x is None else x.to(model.device) for x in model.example_inputs("generator")]
    return fitting_batch_size(activation_bytes(network, *inputs), model.device)

"""A report on a config before any time is spent on training it."""

import tempfile

from mmengine import Config
from mmengine.registry import VISBACKENDS
from torch import nn

from ddgan.data import check_batch_size
from ddgan.engine.config import DEFAULT_HOOKS
from ddgan.engine.optim import build_optim_wrappers
from ddgan.errors import UserError
from ddgan.models.base import check_shapes
from ddgan.registry import DATASETS, HOOKS, MODELS
from ddgan.utils.device import activation_bytes, available_memory
from ddgan.utils.distributed import select_device
from ddgan.utils.files import check_writable

GIB = 2**30


def dry_run(cfg: Config) -> str:
    """Build model and data as training would and return what was found, as text.

    Raises the errors that training would raise before its first iteration.
    """
    device = select_device(cfg.get("device", "auto"))
    check_reports(cfg)
    model = MODELS.build(cfg.model)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    batch_size = cfg.train_dataloader.batch_size
    check_batch_size(dataset, batch_size)
    check_shapes(dataset, model)
    build_optim_wrappers(cfg.optim_wrapper, model)
    first = dataset[0]["x"]
    lines = [
        f"model {type(model).__name__} of samples {tuple(model.data_shape)}, each drawn with "
        f"{model.num_evaluations} evaluation(s) of the generator"
    ]
    for name, network in model.named_children():
        if count := sum(p.numel() for p in network.parameters()):
            trained = any(p.requires_grad for p in network.parameters())
            lines.append(f"  {name}: {count:,} parameters{'' if trained else ' (average)'}")
    lines += [
        f"memory: about {_training_bytes(model, batch_size) / GIB:.2f} GiB for a batch of "
        f"{batch_size} in float32; {available_memory(device) / GIB:.2f} GiB free on {device}",
        f"data: {type(dataset).__name__} with {len(dataset):,} samples; the first is "
        f"{tuple(first.shape)} {str(first.dtype).removeprefix('torch.')}",
        f"training: {cfg.train_cfg.max_iters:,} iterations, batch {batch_size} per process",
        "nothing was trained (--dry-run)",
    ]
    return "\n".join(lines)


def check_reports(cfg: Config) -> None:
    """Raise UserError if the folder of a run, a hook's results or curves cannot be written.

    ConfigError for metrics that cannot be measured.
    """
    check_writable(cfg.work_dir)
    hooks = {**DEFAULT_HOOKS, **cfg.get("default_hooks", {})}.items()
    defaults = [{**DEFAULT_HOOKS.get(name, {}), **hook} for name, hook in hooks if hook is not None]
    for hook in [*defaults, *(cfg.get("custom_hooks") or [])]:
        built = HOOKS.build(hook) if isinstance(hook, dict) else hook
        if hasattr(built, "check"):
            built.check(cfg)
    with tempfile.TemporaryDirectory() as folder:
        for backend in cfg.get("visualizer", {}).get("vis_backends") or ():
            try:
                VISBACKENDS.build({**backend, "save_dir": folder}).experiment  # noqa: B018
            except ImportError as error:
                raise UserError(
                    f"visualizer.vis_backends: {backend['type']} cannot write ({error}); install "
                    "what it needs, or remove it"
                ) from None


def _training_bytes(model: nn.Module, batch_size: int) -> int:
    """Estimate a train step's memory: weights, gradients, Adam's moments and activations."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    averaged = sum(p.numel() for p in model.generator_ema.parameters())
    generator = activation_bytes(model.generator, *model.example_inputs("generator"))
    discriminator = 0
    if hasattr(model, "discriminator"):
        inputs = model.example_inputs("discriminator")
        discriminator = activation_bytes(model.discriminator, *inputs)
    # D's step keeps the activations of real and fake, and R1 about as much again for its second
    # derivative; G's step keeps those of both networks once.
    images = batch_size * model.images_per_sample
    activations = images * max(3 * discriminator, generator + discriminator)
    return 4 * (4 * trained + averaged) + activations

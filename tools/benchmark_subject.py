"""What `train` and `sample` of the benchmark measure: a DDGAN, and the same in plain PyTorch."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmark_ops import Clock, device_name, on
from mmengine import Config
from torch import Tensor

from ddgan.engine import load_config
from ddgan.engine.optim import build_optim_wrappers
from ddgan.errors import UserError
from ddgan.models import DDGAN
from ddgan.registry import MODELS
from ddgan.utils.cli import OptionsAction
from ddgan.utils.device import set_up_cpu

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from reference import from_library, plain  # noqa: E402

# A generator of 9 million parameters: the CIFAR-10 configuration at 3/8 of its width.
CPU_WIDTH = 48
VARIANTS = ("plain", "reference", "limit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that both benchmarks have."""
    parser.add_argument("--config", default="configs/ddgan_cifar10.py")
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE")
    parser.add_argument(
        "--width",
        type=int,
        help=f"base channels of G, to which D is narrowed as well; default {CPU_WIDTH} on the CPU",
    )
    parser.add_argument(
        "--against",
        nargs="+",
        choices=VARIANTS,
        default=[],
        help="plain: tests/reference; reference: without the compiled operators; limit: the "
        "convolutions and matrix products alone",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch-size", type=int, help="default: 8 on the CPU, else as named below")
    parser.add_argument("--amp", choices=("off", "bf16", "fp16"), default="off")
    parser.add_argument("--compile", action="store_true", help="compile the networks")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the times to this file")


@dataclass
class Subject:
    """A model with its optimizers and a batch, and the plain trainer that begins as it does."""

    options: argparse.Namespace
    config: Config
    model: DDGAN
    optimizers: object
    batch: dict[str, Tensor]

    def plain(self) -> plain.Trainer:
        """Return the plain implementation with the model's weights, in float32."""
        keep = ("lr", "betas")
        adam = {
            name: {key: self.config.optim_wrapper[name].optimizer[key] for key in keep}
            for name in ("generator", "discriminator")
        }
        return from_library.trainer(self.model, adam)


def build_subject(options: argparse.Namespace, batch_size: int) -> Subject:
    """Build what is measured; raises UserError for a config that is not of a DDGAN."""
    torch.set_num_threads(options.threads)
    set_up_cpu()
    torch.manual_seed(0)
    cfg = load_config(ROOT / options.config, options.cfg_options)
    if cfg.model.type != "DDGAN":
        raise UserError(f"{options.config} is of a {cfg.model.type}; expected a DDGAN")
    torch.backends.cudnn.benchmark = cfg.get("env_cfg", {}).get("cudnn_benchmark", False)
    narrow(cfg.model, options.width or (CPU_WIDTH if options.device == "cpu" else None))
    for name in ("generator", "discriminator"):
        cfg.optim_wrapper[name].amp = options.amp
        if options.channels_last:
            cfg.model[name].channels_last = True
    model = MODELS.build(cfg.model).to(options.device)
    for parameter in (*model.generator.parameters(), *model.discriminator.parameters()):
        if parameter.ndim > 1:  # the initial weights of some layers are almost zero
            torch.nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
    model.generator_ema.load_state_dict(model.generator.state_dict())
    optimizers = build_optim_wrappers(cfg.optim_wrapper, model)
    shape = (options.batch_size or batch_size, *model.data_shape)
    batch = {"x": torch.randint(0, 256, shape, dtype=torch.uint8, device=options.device)}
    return Subject(options, cfg, model, optimizers, batch)


def narrow(model: dict, width: int | None) -> None:
    """Give the generator ``width`` base channels, and the discriminator as many in proportion."""
    if width is None:
        return
    generator, discriminator = model["generator"], model["discriminator"]
    full = generator["base_channels"]
    generator["base_channels"] = width
    discriminator["stem_channels"] = discriminator["stem_channels"] * width // full
    discriminator["blocks"] = [(c * width // full, down) for c, down in discriminator["blocks"]]


def without_operators(call: Callable[[], object]) -> Callable[[], object]:
    """Return ``call`` with the operators' reference in plain PyTorch."""
    return on("torch", call)


def headline(subject: Subject, clock: Clock) -> dict:
    """Print what is measured on what, and return it as the head of a record."""
    options, model = subject.options, subject.model
    sizes = {
        name: sum(p.numel() for p in getattr(model, name).parameters())
        for name in ("generator", "discriminator")
    }
    chosen = ["compile"] * options.compile + ["channels_last"] * options.channels_last
    chosen += [f"amp {options.amp}"] * (options.amp != "off")
    unit = "CPU time" if clock.now.__name__ == "process_time" and not clock.cuda else "time"
    print(
        f"{device_name(options.device)}, PyTorch {torch.__version__}, {options.threads} thread(s); "
        f"{options.config}, G {sizes['generator'] / 1e6:.1f} M, D "
        f"{sizes['discriminator'] / 1e6:.1f} M parameters, batch {len(subject.batch['x'])}, "
        f"{', '.join(chosen) or 'float32'}; milliseconds of {unit}"
    )
    return {
        "device": device_name(options.device),
        "torch": torch.__version__,
        "threads": options.threads,
        "config": options.config,
        "batch_size": len(subject.batch["x"]),
        "parameters": sizes,
        "options": chosen,
    }


def print_row(what: str, times: dict[str, float]) -> None:
    """Print the times of one kind of work, and what the others take in units of ours."""
    text = "  ".join(
        f"{name} {ms:.1f} ({ms / times['ours']:.2f})"
        for name, ms in times.items()
        if name != "ours"
    )
    print(f"{what:24} ours {times['ours']:9.1f}  {text}", flush=True)


def write_record(path: Path | None, record: dict) -> None:
    """Write a record, if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(record, indent=1) + "\n")

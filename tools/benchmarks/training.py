"""Train steps and samples of a config's model."""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from mmengine import Config
from torch import Tensor, nn

from benchmarks import Clock, Work, limit, measure, within
from ddgan import ops
from ddgan.engine import load_config
from ddgan.engine.networks import compile_networks
from ddgan.engine.optim import build_optim_wrappers
from ddgan.errors import UserError
from ddgan.models import DDGAN, SPIGAN
from ddgan.models.adversarial import AdversarialModel
from ddgan.models.graphs import RecordedDraw
from ddgan.networks import MLPDiscriminator, NCSNpp
from ddgan.registry import MODELS
from ddgan.utils.cli import add_options

ROOT = Path(__file__).parents[2]
# A generator of 9 million parameters: the CIFAR-10 configuration at 3/8 of its width.
CPU_WIDTH = 48
NETWORKS = ("generator", "discriminator")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is measured, and how often."""
    parser.add_argument("--config", default="configs/ddgan_cifar10.py")
    add_options(parser, "--cfg-options", "--import")
    parser.add_argument(
        "--width",
        type=int,
        help="base channels of G, to which D is narrowed as well; default of DDGANs on the CPU: "
        f"{CPU_WIDTH}",
    )
    parser.add_argument("--batch-size", type=int, help="default: 8 on the CPU, 64 on a GPU")
    parser.add_argument("--rounds", type=int, default=7)
    add_options(parser, "--compile")
    parser.set_defaults(amp="off", channels_last=False, against=[])


def add_comparison_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``train`` and ``sample`` compare with, and the options of both."""
    add_model_options(parser)
    parser.add_argument(
        "--against",
        nargs="+",
        choices=("plain", "reference", "limit"),
        default=[],
        help="plain: tests/reference; reference: without the compiled operators; limit: the "
        "convolutions and matrix products alone",
    )
    add_options(parser, "--amp", default="off")
    parser.add_argument("--channels-last", action="store_true")


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train``."""
    add_comparison_options(parser)
    parser.add_argument(
        "--memory", action="store_true", help="measure the peak of memory instead of the time"
    )


def add_sample_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sample``."""
    add_comparison_options(parser)
    parser.add_argument("--cuda-graph", action="store_true", help="replay a recorded graph")


@dataclass
class Subject:
    """A model with its optimizers and a batch."""

    options: argparse.Namespace
    config: Config
    model: AdversarialModel
    optimizers: dict
    batch: dict[str, Tensor]

    def plain(self) -> Any:
        """The trainer in plain PyTorch (tests/reference) with the model's weights, in float32."""
        if not isinstance(self.model, DDGAN):
            raise UserError("--against plain needs the config of a DDGAN")
        adam = {}
        for name in NETWORKS:
            optimizer = self.config.optim_wrapper[name].optimizer
            adam[name] = {key: optimizer[key] for key in ("lr", "betas")}
        return reference().from_library.trainer(self.model, adam)

    @property
    def dtype(self) -> torch.dtype | None:
        """What ``--amp`` casts to."""
        return self.optimizers["generator"].dtype


def reference() -> ModuleType:
    """The package tests/reference, by its path: it is no part of the library."""
    if "reference" not in sys.modules:
        path = ROOT / "tests" / "reference" / "__init__.py"
        spec = importlib.util.spec_from_file_location("reference", path)
        sys.modules["reference"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["reference"])
        importlib.import_module("reference.from_library")
    return sys.modules["reference"]


def build_subject(options: argparse.Namespace) -> Subject:
    """Build what is measured."""
    cfg = load_config(ROOT / options.config, options.cfg_options)
    torch.backends.cudnn.benchmark = cfg.get("env_cfg", {}).get("cudnn_benchmark", False)
    if "base_channels" in cfg.model.generator:
        narrow(cfg.model, options.width or (CPU_WIDTH if options.device == "cpu" else None))
    for name in NETWORKS:
        cfg.optim_wrapper[name].amp = options.amp
        if options.channels_last:
            cfg.model[name].channels_last = True
    model = MODELS.build(cfg.model).to(options.device)
    if isinstance(model, DDGAN):
        for parameter in (*model.generator.parameters(), *model.discriminator.parameters()):
            if parameter.ndim > 1:  # the initial weights of some layers are almost zero
                nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
        model.generator_ema.load_state_dict(model.generator.state_dict())
    batch_size = options.batch_size or (8 if options.device == "cpu" else 64)
    shape = (batch_size, *model.data_shape)
    batch = {"x": torch.randint(0, 256, shape, dtype=torch.uint8, device=options.device)}
    return Subject(options, cfg, model, build_optim_wrappers(cfg.optim_wrapper, model), batch)


def narrow(model: dict, width: int | None) -> None:
    """Give the generator ``width`` base channels, and the discriminator as many in proportion."""
    if width is None:
        return
    generator, discriminator = model["generator"], model["discriminator"]
    full = generator["base_channels"]
    generator["base_channels"] = width
    discriminator["stem_channels"] = discriminator["stem_channels"] * width // full
    discriminator["blocks"] = [(c * width // full, down) for c, down in discriminator["blocks"]]


def headline(subject: Subject, clock: Clock) -> dict[str, Any]:
    """Print what is measured, and return it as the head of a record."""
    options, model = subject.options, subject.model
    sizes = {n: sum(p.numel() for p in getattr(model, n).parameters()) for n in NETWORKS}
    chosen = ["compile"] * options.compile + ["channels_last"] * options.channels_last
    chosen += [f"amp {options.amp}"] * (options.amp != "off")
    unit = "CPU time" if clock.now.__name__ == "process_time" else "time"
    batch_size = len(subject.batch["x"])
    print(
        f"{options.config}, G {sizes['generator'] / 1e6:.1f} M, D "
        f"{sizes['discriminator'] / 1e6:.1f} M parameters, batch {batch_size}, "
        f"{', '.join(chosen) or 'float32'}; milliseconds of {unit}"
    )
    return {
        "config": options.config,
        "batch_size": batch_size,
        "parameters": sizes,
        "options": chosen,
    }


def variants_of(subject: Subject, ours: Work, plain: Callable[[], Work]) -> dict[str, Work]:
    """``ours`` and what ``--against`` names; ``plain()`` builds the work in plain PyTorch."""
    options = subject.options
    variants = {"ours": ours}
    if "plain" in options.against:
        variants["plain"] = plain()
    if "reference" in options.against:
        variants["reference"] = within(partial(ops.backend, "torch"), ours)
    if "limit" in options.against:
        variants |= limit.limits_of(ours, options.channels_last)
    if options.compile:
        compile_networks(subject.model)
    return variants


def print_row(what: str, times: dict[str, float]) -> None:
    """Print the times of one kind of work, and what the others take in units of ours."""
    others = {name: ms for name, ms in times.items() if name != "ours"}
    text = "  ".join(f"{n} {ms:.1f} ({ms / times['ours']:.2f})" for n, ms in others.items())
    print(f"{what:24} ours {times['ours']:9.1f}  {text}", flush=True)


def step_of(subject: Subject, with_r1: bool) -> Work:
    """One train step, with R1 or without where the config does not ask for it at each step."""
    model = subject.model

    def step() -> object:
        model.iteration = 0 if with_r1 else 1
        return model.train_step(subject.batch, subject.optimizers)

    return step


def plain_step(subject: Subject, with_r1: bool) -> Work:
    """The same step in plain PyTorch."""
    trainer = subject.plain()
    x0 = subject.batch["x"].float() / 127.5 - 1
    latent_dim = subject.model.generator.latent_dim

    def step() -> object:
        draws = [trainer.draws(x0, latent_dim) for _ in range(2)]
        return trainer.step(x0, *draws, with_r1)

    return step


def train(options: argparse.Namespace) -> dict[str, Any]:
    """A train step against plain PyTorch, and against its convolutions and products alone."""
    clock = Clock(options.device, options.threads)
    subject = build_subject(options)
    record = headline(subject, clock)
    rows: dict[str, dict[str, float]] = {}
    interval = subject.model.r1_interval
    for what, with_r1 in (("train step with R1", True), ("train step without R1", False)):
        if not with_r1 and (options.memory or interval == 1):
            continue
        plain = partial(plain_step, subject, with_r1)
        variants = variants_of(subject, step_of(subject, with_r1), plain)
        if options.memory:
            record["peak_bytes"] = {
                name: peak_of(step, options.device)
                for name, step in variants.items()
                if "limit" not in name
            }
            for name, peak in record["peak_bytes"].items():
                print(f"{name:10} {peak / 2**20:9.1f} MiB of tensors at most, within a step")
        else:
            rows[what] = measure(variants, clock, options.rounds)
            print_row(what, rows[what])
    if len(rows) == 2:
        first, other = rows.values()
        rows["train step"] = {
            name: (first[name] + (interval - 1) * other[name]) / interval for name in first
        }
        print_row(f"mean, R1 every {interval}th", rows["train step"])
    return record | {"rows": rows}


def sample(options: argparse.Namespace) -> dict[str, Any]:
    """Sampling, against the same as ``train``; of SPI-GAN against its synthesis and a DDGAN.

    That DDGAN has four steps and an NCSN++ whose evaluation takes about as long as the synthesis.
    """
    clock = Clock(options.device, options.threads)
    if options.batch_size is None and options.device == "cuda":
        options.batch_size = 100
    subject = build_subject(options)
    record = headline(subject, clock)
    model, num = subject.model.eval(), len(subject.batch["x"])
    draw = RecordedDraw(model) if options.cuda_graph else None

    def ours() -> object:
        with torch.autocast(options.device, subject.dtype, enabled=subject.dtype is not None):
            return model.sample(num, batch_size=num, draw=draw)

    def plain() -> Work:
        trainer = subject.plain()
        noise = torch.randn(num, *model.data_shape, device=model.device)
        return partial(
            reference().plain.sample,
            trainer.average,
            trainer.process,
            noise,
            model.generator.latent_dim,
        )

    variants = variants_of(subject, ours, plain)
    if "plain" in options.against:
        record["rms_difference"] = difference = rms_difference(subject)
        print(f"one evaluation differs from plain float32 by {difference:.2g} (RMS)")
    if isinstance(model, SPIGAN):
        variants |= beside_spigan(model, num, clock)
    with torch.no_grad():
        record["rows"] = {"sample": measure(variants, clock, options.rounds)}
    print_row(f"{num} samples", record["rows"]["sample"])
    return record


@torch.no_grad()
def rms_difference(subject: Subject) -> float:
    """How far an evaluation of G, in the precision asked for, is from plain float32."""
    model, device = subject.model, subject.options.device
    n = len(subject.batch["x"])
    x_t = torch.randn(n, *model.data_shape, device=device)
    z = torch.randn(n, model.generator.latent_dim, device=device)
    t = torch.arange(n, device=device) % model.diffusion.num_steps
    with torch.autocast(device, subject.dtype, enabled=subject.dtype is not None):
        ours = model.generator_ema(x_t, t, z)
    return float((ours - subject.plain().average(x_t, t, z)).square().mean().sqrt())


@torch.no_grad()
def beside_spigan(model: SPIGAN, num: int, clock: Clock) -> dict[str, Work]:
    """SPI-GAN's synthesis alone, and an NCSN++ about as slow, evaluated once and in a DDGAN."""
    generator = model.generator_ema.synthesis
    h = torch.randn(num, model.generator_ema.latent_dim, device=model.device)
    synthesis = partial(generator.synthesis, generator.styles(h), "random")
    target = measure({"synthesis": synthesis}, clock, 5)["synthesis"]

    x = torch.randn(num, *model.data_shape, device=model.device)
    t = torch.zeros(num, dtype=torch.int64, device=model.device)
    z = torch.randn(num, 32, device=model.device)
    levels = max(1, model.data_shape[-1].bit_length() - 3)
    found: list[tuple[float, NCSNpp]] = []
    for width in range(8, 136, 8):
        network = NCSNpp(
            model.data_shape[-1],
            base_channels=width,
            channel_multipliers=[1] + [2] * (levels - 1),
            num_res_blocks=1,
            attention_resolutions=(),
            latent_dim=z.shape[1],
            embedding_dim=64,
        )
        network = network.to(model.device).eval()
        taken = measure({"one": partial(network, x, t, z)}, clock, 3)["one"]
        found.append((abs(taken - target), network))
        if taken > 1.5 * target:
            break
    network = min(found, key=lambda pair: pair[0])[1]
    unused = MLPDiscriminator(4, model.data_shape, hidden_dim=8)
    ddgan = DDGAN(network, unused, {"num_steps": 4}).to(model.device).eval()
    return {
        "synthesis": synthesis,
        "NCSN++ evaluation": partial(network, x, t, z),
        "DDGAN": partial(ddgan.sample, num, batch_size=num),
    }


def peak_of(step: Work, device: str) -> int:
    """The bytes of tensors that a step allocates at most, beyond those there before."""
    step()  # The first one allocates Adam's moments.
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(nbytes for _, nbytes in changes))

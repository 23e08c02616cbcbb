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
from ddgan.models import DDGAN
from ddgan.models.adversarial import AdversarialModel
from ddgan.models.graphs import RecordedDraw
from ddgan.registry import MODELS
from ddgan.utils.cli import add_options

ROOT = Path(__file__).parents[2]
# A generator of 9 million parameters: the CIFAR-10 configuration at 3/8 of its width.
CPU_WIDTH = 48
NETWORKS = ("generator", "discriminator")


def both(key: str, value: Any) -> dict[str, Any]:
    """A setting of both networks."""
    return {key.format(name): value for name in NETWORKS}


# Rows of ``options``: the settings of the config, and the options, that each changes.
QUARTERS = 4
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "baseline": ({}, {}),
    "without fused Adam": (both("optim_wrapper.{}.optimizer.fused", False), {}),
    "bf16": ({}, {"amp": "bf16"}),
    "fp16": ({}, {"amp": "fp16"}),
    "channels_last": ({}, {"channels_last": True}),
    "bf16, channels_last": ({}, {"amp": "bf16", "channels_last": True}),
    "checkpoint_activations": (both("model.{}.checkpoint_activations", True), {}),
    "accumulated": (both("optim_wrapper.{}.accumulative_counts", QUARTERS), {}),
    "compiled": ({}, {"compile": True}),
    "bf16, channels_last, compiled": (
        {},
        {"amp": "bf16", "channels_last": True, "compile": True},
    ),
}


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


def add_options_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``options``."""
    add_model_options(parser)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="rows whose name contains one"
    )


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


def compare_options(options: argparse.Namespace) -> dict[str, Any]:
    """What each option of training brings: time and memory of a train step without R1.

    The baseline is the library as it trains by default; each row changes one thing.
    """
    clock = Clock(options.device, options.threads)
    options.batch_size = options.batch_size or (8 if options.device == "cpu" else 64)
    if options.batch_size % QUARTERS:
        raise UserError(f"--batch-size is {options.batch_size}; expected a multiple of {QUARTERS}")
    updates, record = {}, {}
    for name, (_, changes) in CHANGES.items():
        wanted = name == "baseline" or any(text in name for text in options.only)
        possible = options.device == "cuda" or name != "fp16"
        if wanted and possible and (options.compile or "compile" not in changes):
            subject = changed_subject(options, name)
            record = record or headline(subject, clock)
            updates[name] = update_of(subject)
    peaks = {name: peak_of(update, options.device) for name, update in updates.items()}
    times = measure(updates, clock, options.rounds)
    print("\n| train step without R1 | ms | ratio | peak, MiB |\n|---|---|---|---|")
    for name, ms in times.items():
        print(f"| {name} | {ms:.1f} | {ms / times['baseline']:.2f} | {peaks[name] / 2**20:.0f} |")
    rows = [{"name": n, "milliseconds": ms, "peak_bytes": peaks[n]} for n, ms in times.items()]
    return record | {"rows": rows}


def changed_subject(options: argparse.Namespace, name: str) -> Subject:
    """What one row of ``options`` measures."""
    config, changes = CHANGES[name]
    options = argparse.Namespace(**{**vars(options), "compile": False, **changes})
    options.cfg_options = {**options.cfg_options, **config}
    if name == "accumulated":
        options.batch_size //= QUARTERS
    return build_subject(options)


def update_of(subject: Subject) -> Work:
    """One update of both networks without R1, of all batches that it accumulates."""
    if subject.options.compile:
        compile_networks(subject.model)
    step = step_of(subject, with_r1=False)
    batches = subject.config.optim_wrapper.generator.get("accumulative_counts", 1)

    def update() -> None:
        for _ in range(batches):
            step()

    return update


def sample(options: argparse.Namespace) -> dict[str, Any]:
    """Sampling, against the same as ``train``."""
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

"""A generator's forward and a whole train step, with the compiled operators and without.

Both variants run in one process, in interleaved rounds, and the median round counts.
"""

import argparse
import json
from pathlib import Path

import torch
from benchmark_ops import Clock, device_name, measure, on
from torch import Tensor

from ddgan.engine import load_config
from ddgan.engine.cli import OptionsAction, user_errors
from ddgan.engine.optim import build_optim_wrappers
from ddgan.registry import MODELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("config", nargs="?", default="configs/ddgan_cifar10.py")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the times to this file")


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    with user_errors():
        cfg = load_config(options.config, options.cfg_options)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).to(options.device)
    optimizers = build_optim_wrappers(cfg.optim_wrapper, model)
    shape = (options.batch_size, *model.data_shape)
    batch = {"x": torch.randint(0, 256, shape, dtype=torch.uint8, device=options.device)}
    inputs = [_repeated(x, options) for x in model.example_inputs("generator")]

    def step(iteration: int) -> object:
        model.iteration = iteration
        return model.train_step(batch, optimizers)

    work = {
        "generator forward": torch.no_grad()(lambda: model.generator(*inputs)),
        "train step with R1": lambda: step(0),
        "train step without R1": lambda: step(1),
    }
    clock = Clock(options.device, options.threads)
    name = device_name(options.device)
    print(
        f"{name}, PyTorch {torch.__version__}, {options.threads} thread(s), "
        f"{Path(options.config).stem}, batch {options.batch_size}; milliseconds"
    )
    rows = {}
    for what, call in work.items():
        variants = {"op": on(options.device, call), "reference": on("torch", call)}
        times = rows[what] = measure(variants, clock, options.rounds)
        ratio = times["reference"] / times["op"]
        print(f"{what:22} op {times['op']:9.1f}  reference {times['reference']:9.1f} ({ratio:.2f})")
    if options.json:
        record = {"device": name, "torch": torch.__version__, "threads": options.threads}
        record |= {"config": options.config, "batch_size": options.batch_size, "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _repeated(x: Tensor | None, options: argparse.Namespace) -> Tensor | None:
    if x is None:
        return None
    return x.to(options.device).expand(options.batch_size, *x.shape[1:]).contiguous()

"""SPI-GAN's sampling against its synthesis network alone and against DDGAN's sampling.

DDGAN has four steps and an NCSN++ whose width is chosen so that one evaluation takes about as long
as the synthesis network. All are measured in one process, in interleaved rounds.
"""

import argparse
import json
from pathlib import Path

import torch
from benchmark_ops import Clock, device_name, measure

from ddgan.engine import load_config
from ddgan.models import DDGAN, SPIGAN
from ddgan.networks import MLPDiscriminator, NCSNpp
from ddgan.registry import MODELS
from ddgan.utils.cli import OptionsAction, user_errors
from ddgan.utils.device import set_up_cpu

WIDTHS = range(8, 136, 8)
NUM_STEPS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument("config", nargs="?", default="configs/spigan_stackeddigits.py")
    parser.add_argument("--num", type=int, default=100, help="samples drawn at once")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cfg-options", nargs="+", action=OptionsAction, metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the times to this file")


@torch.no_grad()
def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    with user_errors():
        cfg = load_config(options.config, options.cfg_options)
        model = MODELS.build(cfg.model)
        if not isinstance(model, SPIGAN):
            raise ValueError(f"{options.config} is of a {type(model).__name__}; expected a SPIGAN")
    torch.set_num_threads(options.threads)
    set_up_cpu()
    torch.manual_seed(0)
    model = model.to(options.device).eval()
    clock = Clock(options.device, options.threads)

    generator = model.generator_ema.synthesis
    h = torch.randn(options.num, model.generator_ema.latent_dim, device=options.device)
    styles = generator.styles(h)

    def synthesis() -> object:
        return generator.synthesis(styles, "random")

    target = measure({"synthesis": synthesis}, clock, 5)["synthesis"]
    network = comparable_network(model.data_shape, target, clock, options)
    x = torch.randn(options.num, *model.data_shape, device=options.device)
    t = torch.zeros(options.num, dtype=torch.int64, device=options.device)
    z = torch.randn(options.num, network.latent_dim, device=options.device)
    unused = MLPDiscriminator(NUM_STEPS, model.data_shape, hidden_dim=8)
    ddgan = DDGAN(network, unused, {"num_steps": NUM_STEPS}).to(options.device).eval()

    times = measure(
        {
            "synthesis network": synthesis,
            "SPI-GAN sample": lambda: model.sample(options.num, batch_size=options.num),
            "NCSN++ evaluation": lambda: network(x, t, z),
            "DDGAN sample": lambda: ddgan.sample(options.num, batch_size=options.num),
        },
        clock,
        options.rounds,
    )
    name = device_name(options.device)
    print(
        f"{name}, PyTorch {torch.__version__}, {options.threads} thread(s), {options.num} samples "
        f"of {tuple(model.data_shape)}; milliseconds"
    )
    for what, milliseconds in times.items():
        relative = milliseconds / times["synthesis network"]
        print(f"{what:18} {milliseconds:9.2f}  {relative:5.2f} x the synthesis network")
    ratio = times["DDGAN sample"] / times["SPI-GAN sample"]
    print(f"DDGAN takes {ratio:.2f} x SPI-GAN's time")
    if options.json:
        record = {"device": name, "torch": torch.__version__, "threads": options.threads}
        record |= {"config": options.config, "num": options.num, "times": times}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def comparable_network(
    data_shape: tuple[int, ...], target: float, clock: Clock, options: argparse.Namespace
) -> NCSNpp:
    """Return the NCSN++ whose evaluation takes nearest to ``target`` milliseconds."""
    found: list[tuple[float, NCSNpp]] = []
    x = torch.randn(options.num, *data_shape, device=options.device)
    t = torch.zeros(options.num, dtype=torch.int64, device=options.device)
    levels = max(1, data_shape[-1].bit_length() - 3)
    for width in WIDTHS:
        network = NCSNpp(
            data_shape[-1],
            base_channels=width,
            channel_multipliers=[1] + [2] * (levels - 1),
            num_res_blocks=1,
            attention_resolutions=(),
            latent_dim=32,
            embedding_dim=64,
        )
        network = network.to(options.device).eval()
        z = torch.randn(options.num, network.latent_dim, device=options.device)
        taken = measure({"one": lambda n=network, z=z: n(x, t, z)}, clock, 3)["one"]
        found.append((abs(taken - target), network))
        if taken > 1.5 * target:
            break
    return min(found, key=lambda pair: pair[0])[1]

"""Measure the library: ``python tools/benchmark.py train``, or another command of ``--help``.

docs/benchmarks.md has the numbers.
"""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
import json
from pathlib import Path

import torch
from benchmarks import busy, data, device_name, ops, runner, training

from ddgan.utils.cli import add_options, at_least, running

COMMANDS = {
    "ops": (ops.add_options, ops.run),
    "train": (training.add_train_options, training.train),
    "sample": (training.add_sample_options, training.sample),
    "options": (training.add_options_options, training.compare_options),
    "runner": (runner.add_options, runner.run),
    "data": (data.add_options, data.run),
    "busy": (busy.add_options, busy.run),
}


def main() -> None:
    """Run one command; print its result, and write it where ``--json`` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (add, run) in COMMANDS.items():
        summary = run.__doc__.splitlines()[0]
        command = commands.add_parser(name, help=summary, description=run.__doc__)
        add_options(command, "--device", default="cpu", choices=("cpu", "cuda"), help=None)
        command.add_argument("--threads", type=at_least(1), default=1)
        command.add_argument("--json", type=Path, help="also write the result to this file")
        add(command)
        command.set_defaults(run=run)
    args = parser.parse_args()
    with running(args):
        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
        device = device_name(args.device)
        print(f"{device}, PyTorch {torch.__version__}, {args.threads} thread(s)")
        record = {"device": device, "torch": torch.__version__, "threads": args.threads}
        record |= args.run(args)
        if args.json:
            args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

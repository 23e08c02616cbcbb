"""Train a model from a config: ``python tools/train.py configs/ddgan_stackeddigits.py``.

On SIGTERM, SIGUSR1 or SIGHUP a run saves a checkpoint and exits with 75; --resume continues it.
"""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
import sys
from pathlib import Path

from mmengine.config import Config

from ddgan.engine import Runner, load_config
from ddgan.engine.dry_run import dry_run
from ddgan.engine.preemption import PREEMPTED_STATUS
from ddgan.utils.cli import Parser, add_options, running


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description="Train a model.")
    parser.add_argument("config", help="a config file, such as configs/ddgan_cifar10.py")
    parser.add_argument("--work-dir", help="folder of the run; default work_dirs/<config's name>")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from this checkpoint, or from the newest whole one of the run's folder",
    )
    add_options(parser, "--cfg-options", help="settings to change: train_cfg.max_iters=1000")
    add_options(parser, "--launcher", "--amp", "--compile", "--import")
    add_options(parser, "--seed", default=None, help="instead of the config's randomness.seed")
    add_options(parser, "--device", default=None)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, an estimate of memory and a check of the data, and train nothing",
    )
    # torch.distributed.launch passes it; torchrun does not.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def read_config(args: argparse.Namespace) -> Config:
    """The config with the command line's settings in it."""
    cfg = load_config(args.config, args.cfg_options)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{Path(args.config).stem}"
    cfg.launcher = args.launcher
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    if args.seed is not None:
        cfg.merge_from_dict({"randomness.seed": args.seed})
    if args.device:
        cfg.device = args.device
    if args.compile:
        cfg.compile = True
    if args.amp:
        for network in ("generator", "discriminator"):
            if network in cfg.optim_wrapper:
                cfg.optim_wrapper[network].amp = args.amp
    return cfg


def main() -> None:
    """Train, or only report what would be trained."""
    args = parse_args()
    with running(args):
        cfg = read_config(args)
        if args.dry_run:
            print(dry_run(cfg))
        else:
            runner = Runner.from_cfg(cfg)
            runner.train()
            if runner.preempted:
                sys.exit(PREEMPTED_STATUS)


if __name__ == "__main__":
    main()

"""Score a model: ``python tools/test.py work_dirs/quickstart/iter_3000.pth --metric modes``."""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse
from pathlib import Path
from typing import Any

import torch.distributed as dist
from mmengine import Config
from mmengine.dist import broadcast_object_list, is_main_process

from ddgan.apis import auto_batch_size, load_model
from ddgan.engine import load_config, read_weights
from ddgan.engine.checkpoint import newest_checkpoint
from ddgan.engine.config import check_trusted_types
from ddgan.errors import UserError
from ddgan.evaluation.cache import features_root
from ddgan.evaluation.evaluator import (
    EvaluationOptions,
    Evaluator,
    Result,
    build_metrics,
    reference_dataset,
)
from ddgan.evaluation.features import no_progress
from ddgan.evaluation.records import config_name, write_record
from ddgan.utils.cli import Parser, add_options, at_least, progress_bar, running
from ddgan.utils.distributed import init_process_group, select_device

PRESETS = Path(__file__).parents[1] / "configs" / "_base_" / "evaluation"
# The other processes wait for the main one while it computes the metrics.
_TIMEOUT = 6 * 3600


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description="Measure metrics of a trained model.")
    parser.add_argument(
        "files",
        nargs="*",
        metavar="[CONFIG] [CHECKPOINT]",
        help="by default the newest checkpoint under work_dirs, with the config that it carries",
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        required=True,
        help="fid, is, kid, precision, recall, density, coverage, fd_dinov2, time, nfe, and the "
        "names in config.evaluation",
    )
    parser.add_argument(
        "--num", type=at_least(1), help="how many samples, instead of the metric's own number"
    )
    parser.add_argument(
        "--preset",
        choices=sorted(path.stem for path in PRESETS.glob("*.py")),
        help="settings of metrics; release: as DDGAN's published numbers were made",
    )
    parser.add_argument(
        "--real", type=Path, help="compare with this file (mu and sigma in .npz, .npy or .pt)"
    )
    parser.add_argument(
        "--export-real", type=Path, help="write what the samples are compared with to this .npz"
    )
    parser.add_argument(
        "--keep-features", action="store_true", help="keep the features of the samples when done"
    )
    add_options(parser, "--seed", "--batch-size", "--device", "--no-ema", "--import", "--launcher")
    add_options(
        parser, "--cfg-options", help="settings to change, such as evaluation.fid.num=10000"
    )
    return parser.parse_args()


def choose_files(files: list[str], options: dict[str, Any]) -> tuple[Config, Path, dict[str, Any]]:
    """Find the config, the checkpoint, and what records say of the checkpoint."""
    configs = [f for f in files if f.endswith(".py")]
    checkpoints = [f for f in files if not f.endswith(".py")]
    if len(configs) > 1 or len(checkpoints) > 1:
        raise UserError(f"{files}: expected at most one config and one checkpoint")
    if checkpoints:
        path = Path(checkpoints[0])
    else:
        path, reason = newest_checkpoint("work_dirs", Path(configs[0]).stem if configs else "*")
        if is_main_process():
            print(f"using {path}, {reason}")
    own, _, info = read_weights(path)
    counts = ("iteration", "images_seen", "global_batch_size")
    numbers = {key: int(info[key]) for key in counts if key in info}
    source: dict[str, Any] = {"config": config_name(own), **info, **numbers}
    if configs:
        config = load_config(configs[0], options)
        return config, path, {**source, "config": Path(configs[0]).stem}
    own.merge_from_dict(options)
    for part in ("evaluation", "evaluation_dataset", "train_dataloader"):
        check_trusted_types(own.get(part, {}), part)
    return own, path, source


def main() -> None:
    """Measure, print and write the records."""
    args = parse_args()
    with running(args):
        if args.launcher != "none":
            init_process_group(args.launcher, select_device(args.device), None, _TIMEOUT)
        try:
            evaluate(args)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate together with the other processes, if any."""
    config, path, source = choose_files(args.files, args.cfg_options)
    own = {name: dict(entry) for name, entry in config.get("evaluation", {}).items()}
    if args.preset:
        source["preset"] = args.preset
        for name, entry in Config.fromfile(PRESETS / f"{args.preset}.py").evaluation.items():
            own[name] = {**own.get(name, {}), **entry.to_dict()}
    if args.batch_size and "time" in args.metric:
        own["time"] = {**own.get("time", {}), "batch_size": args.batch_size}
    metrics = build_metrics(args.metric, own)
    model = load_model(path, args.device)
    # Free memory differs between processes; the main one decides.
    batch_size = [args.batch_size or auto_batch_size(model)]
    broadcast_object_list(batch_size)
    options = EvaluationOptions(
        num=args.num,
        seed=args.seed,
        batch_size=batch_size[0],
        use_ema=not args.no_ema,
        features_root=features_root(path),
        keep_features=args.keep_features,
        real_file=args.real,
        export=args.export_real,
        num_workers=config.get("train_dataloader", {}).get("num_workers", 0),
        progress=progress_bar if is_main_process() else no_progress,
    )

    def report(name: str, result: Result) -> None:
        protocol = {**source, **result.protocol}
        # Printed first, so that a record that cannot be written does not cost the numbers.
        print(summary(name, result.values), flush=True)
        print(f"  {write_record(path, name, result.values, protocol, result.version)}", flush=True)

    evaluator = Evaluator(
        metrics, lambda: reference_dataset(config), config.model.to_dict(), options
    )
    evaluator.run(model, report)
    if args.export_real and is_main_process():
        print(f"what samples are compared with is in {args.export_real}")


def summary(name: str, values: dict[str, Any]) -> str:
    """One line for a person: the metric's main value first."""
    if name == "modes":
        line = f"modes: {values['modes']} / {values['num_modes']}  KL: {values['kl']:.3f}"
        shown = ("modes", "num_modes", "kl")
    elif name in values:
        line, shown = f"{name}: {values[name]:.4g}", (name,)
    else:
        line, shown = f"{name}:", ()
    rest = {k: v for k, v in values.items() if k not in shown}
    numbers = {k: v for k, v in rest.items() if isinstance(v, (int, float))}
    return "  ".join([line, *(f"{k} {v:.4g}" for k, v in numbers.items())])


if __name__ == "__main__":
    main()

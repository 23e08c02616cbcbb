"""Score a model: ``python tools/test.py work_dirs/quickstart/iter_3000.pth --metric modes``."""

import argparse
from pathlib import Path

from mmengine import Config

from ddgan.apis import auto_batch_size, load_model
from ddgan.engine import load_config, read_weights
from ddgan.engine.cli import import_packages, progress_bar, user_errors
from ddgan.engine.config import check_trusted_types
from ddgan.errors import UserError
from ddgan.evaluation import write_record
from ddgan.registry import METRICS


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Measure metrics of a trained model.")
    parser.add_argument(
        "files",
        nargs="*",
        metavar="[CONFIG] [CHECKPOINT]",
        help="by default the newest checkpoint under work_dirs, with the config that it carries",
    )
    parser.add_argument("--metric", nargs="+", required=True, help="names in config.evaluation")
    parser.add_argument("--num", type=int, help="how many samples, instead of the metric's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, help="changes the samples by rounding at most")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--no-ema", action="store_true", help="use the generator as trained")
    parser.add_argument(
        "--import", nargs="+", default=[], dest="packages", help="packages that register modules"
    )
    return parser.parse_args()


def choose_files(files: list[str]) -> tuple[Config, Path, dict[str, str]]:
    """Return the config, the checkpoint and its information from the command line's files."""
    configs = [f for f in files if f.endswith(".py")]
    checkpoints = [f for f in files if not f.endswith(".py")]
    if len(configs) > 1 or len(checkpoints) > 1:
        raise UserError(f"{files}: expected at most one config and one checkpoint")
    path = Path(checkpoints[0]) if checkpoints else newest_checkpoint()
    own, _, info = read_weights(path)
    if configs:
        return load_config(configs[0]), path, info
    check_trusted_types(own.get("evaluation", {}), "evaluation")
    return own, path, info


def newest_checkpoint(root: str = "work_dirs") -> Path:
    """Return the checkpoint written last in any run."""
    found = sorted(Path(root).glob("*/iter_*.pth"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(f"there is no run under {root}/; name a checkpoint, or train first")
    print(f"using {found[-1]}")
    return found[-1]


def main() -> None:
    """Sample once for all metrics, measure, print and write the records."""
    args = parse_args()
    with user_errors():
        import_packages(args.packages)
        config, path, info = choose_files(args.files)
        known = config.get("evaluation", {})
        if unknown := sorted(set(args.metric) - set(known)):
            raise UserError(
                f"--metric {unknown} is not in the config's evaluation, which has {sorted(known)}"
            )
        metrics = {name: METRICS.build(known[name]) for name in args.metric}
        model = load_model(path, args.device)
        num = args.num or max(metric.num for metric in metrics.values())
        with progress_bar("sampling", num) as advance:
            samples = model.sample(
                num,
                seed=args.seed,
                batch_size=args.batch_size or auto_batch_size(model),
                use_ema=not args.no_ema,
                progress=advance,
            )
        for name, metric in metrics.items():
            count = args.num or metric.num
            values = metric(samples[:count])
            protocol = {
                "num": count,
                "seed": args.seed,
                "ema": not args.no_ema,
                "nfe": model.num_evaluations,
                "device": str(model.device),
                **info,
            }
            record = write_record(path, name, values, protocol)
            print(summary(name, values))
            print(f"  {record}")


def summary(name: str, values: dict) -> str:
    """Return one line for a person."""
    if name == "modes":
        line = f"modes: {values['modes']} / {values['num_modes']}  KL: {values['kl']:.3f}"
        rest = {k: v for k, v in values.items() if k not in ("modes", "num_modes", "kl")}
    else:
        line, rest = f"{name}:", values
    return "  ".join([line, *(f"{k} {v:.4g}" for k, v in rest.items())])


if __name__ == "__main__":
    main()

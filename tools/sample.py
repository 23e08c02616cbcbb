"""Draw samples: ``python tools/sample.py CHECKPOINT --num 64 --out samples.png``."""

import ddgan.utils.threads  # noqa: F401, before torch

import argparse

from ddgan.apis import auto_batch_size, load_model
from ddgan.utils.cli import add_options, at_least, progress_bar, running
from ddgan.visualization import written_samples


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Draw samples from a trained model.")
    add_options(parser, "checkpoint")
    parser.add_argument("--num", type=at_least(1), default=64, help="how many samples (default 64)")
    parser.add_argument(
        "--first-index", type=at_least(0), default=0, help="index of the first sample (default 0)"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="a .png for a grid, a .npz for an array, a .zip or a folder for single PNGs",
    )
    add_options(parser, "--seed", "--batch-size", "--device", "--no-ema", "--import")
    return parser.parse_args()


def main() -> None:
    """Sample and write."""
    args = parse_args()
    with running(args):
        model = load_model(args.checkpoint, args.device)
        batch_size = args.batch_size or auto_batch_size(model)
        with (
            written_samples(args.out, args.first_index) as add_samples,
            progress_bar("sampling", args.num) as advance,
        ):
            for start in range(0, args.num, batch_size):
                count = min(batch_size, args.num - start)
                samples = model.sample(
                    count,
                    seed=args.seed,
                    batch_size=count,
                    first_index=args.first_index + start,
                    use_ema=not args.no_ema,
                )
                add_samples(samples)
                advance(count)
        print(f"{args.num} samples of seed {args.seed} are in {args.out}")


if __name__ == "__main__":
    main()

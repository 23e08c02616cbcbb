"""Draw samples: ``python tools/sample.py CHECKPOINT --num 64 --out samples.png``."""

import argparse

from ddgan.apis import auto_batch_size, load_model
from ddgan.errors import UserError
from ddgan.utils.cli import import_packages, progress_bar, user_errors
from ddgan.utils.cpu import set_up_cpu
from ddgan.visualization import written_samples


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description="Draw samples from a trained model.")
    parser.add_argument("checkpoint", help="iter_N.pth of a run, or a .safetensors release file")
    parser.add_argument("--num", type=int, default=64, help="how many samples (default 64)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out",
        required=True,
        help="a .png for a grid, a .npz for an array, a .zip or a folder for single PNGs",
    )
    parser.add_argument(
        "--batch-size",
        default="auto",
        help="a number, or auto for what fits into memory; changes the samples by rounding at most",
    )
    parser.add_argument("--first-index", type=int, default=0, help="index of the first sample")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--no-ema", action="store_true", help="use the generator as trained")
    parser.add_argument(
        "--import", nargs="+", default=[], dest="packages", help="packages that register modules"
    )
    return parser.parse_args()


def read_batch_size(text: str) -> int | None:
    """Return the batch size that the command line asks for, None for auto."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--batch-size is {text!r}; expected a number of at least 1, or auto")
    return int(text)


def main() -> None:
    """Sample and write."""
    args = parse_args()
    set_up_cpu()
    with user_errors():
        if args.num < 1 or args.first_index < 0:
            raise UserError(
                f"--num is {args.num} and --first-index {args.first_index}; expected at least 1 "
                "and 0"
            )
        import_packages(args.packages)
        model = load_model(args.checkpoint, args.device)
        batch_size = read_batch_size(args.batch_size) or auto_batch_size(model)
        with (
            written_samples(args.out, args.first_index) as writer,
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
                writer.add(samples)
                advance(count)
        print(f"{args.num} samples of seed {args.seed} are in {args.out}")


if __name__ == "__main__":
    main()

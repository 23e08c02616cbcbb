"""Samples of several models on points beside each other, with their scores (DDGAN, Fig. 6).

``python tools/compare.py RUN1/iter_50000.pth RUN2/iter_50000.pth --names GAN DDGAN --out out.png``
"""

import argparse
from pathlib import Path

import torch

from ddgan.apis import auto_batch_size, load_model
from ddgan.data import Gaussians25
from ddgan.errors import UserError
from ddgan.evaluation import record_path
from ddgan.evaluation.records import read_record
from ddgan.utils.cli import progress_bar, user_errors
from ddgan.utils.device import set_up_cpu
from ddgan.visualization import ScatterPanel, plot_scatter_comparison


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Draw samples of several models on the 25-Gaussians beside the data. The "
        "titles' numbers are those of the records that tools/test.py --metric modes wrote."
    )
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--names", nargs="+", help="titles; by default the runs' folders")
    parser.add_argument("--num", type=int, default=2_500, help="points per panel (default 2500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="the PNG to write")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    return parser.parse_args()


def panel(name: str, checkpoint: str, args: argparse.Namespace) -> tuple[ScatterPanel, str]:
    """Sample a model; returns its panel and how its numbers were measured."""
    path = record_path(checkpoint, "modes")
    record = read_record(path)
    if record is None:
        raise UserError(
            f"there is no record {path}; write it first: python tools/test.py {checkpoint} "
            "--metric modes"
        )
    model = load_model(checkpoint, args.device)
    if model.data_shape != (2,):
        raise UserError(f"{checkpoint} draws samples of shape {model.data_shape}; expected (2,)")
    with progress_bar(name, args.num) as advance:
        batch_size = auto_batch_size(model)
        points = model.sample(args.num, args.seed, batch_size=batch_size, progress=advance)
    values, protocol = record["values"], record["protocol"]
    how = f"{protocol.get('num')} samples after {protocol.get('iteration')} iterations"
    nfe = protocol.get("nfe", model.num_evaluations)
    good = values.get("high_quality")
    return ScatterPanel(name, points.cpu().numpy(), values["modes"], good, nfe), how


def main() -> None:
    """Sample, and draw the panels."""
    args = parse_args()
    set_up_cpu()
    with user_errors():
        names = args.names or [Path(checkpoint).parent.name for checkpoint in args.checkpoints]
        if len(names) != len(args.checkpoints):
            raise UserError(f"--names has {len(names)} for {len(args.checkpoints)} checkpoints")
        data = Gaussians25(num_samples=args.num)
        points = torch.stack([data[index]["x"] for index in range(args.num)])
        panels, notes = [ScatterPanel("Data", points.numpy())], []
        for name, checkpoint in zip(names, args.checkpoints, strict=True):
            one, how = panel(name, checkpoint, args)
            panels.append(one)
            notes.append(how)
        if len(set(notes)) > 1:
            notes = [f"{name} {how}" for name, how in zip(names, notes, strict=True)]
        scores = "; ".join(dict.fromkeys(notes))
        note = f"{args.num:,} points are drawn per panel; scores are of {scores}"
        plot_scatter_comparison(panels, data.centres, data.std, args.out, note)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    main()

"""Draw samples beside their nearest training images (DDGAN, Fig. 16 and 17).

python tools/neighbours.py CHECKPOINT --out neighbours.png
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import Config
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ddgan.apis import auto_batch_size, load_model
from ddgan.engine import load_config, read_weights
from ddgan.engine.config import check_trusted_types
from ddgan.errors import UserError
from ddgan.evaluation import Neighbours, nearest_neighbours
from ddgan.evaluation.sampled_features import extract
from ddgan.registry import DATASETS, MODELS
from ddgan.utils.cli import OptionsAction, import_packages, progress_bar, user_errors
from ddgan.utils.device import set_up_cpu
from ddgan.visualization import image_grid

EXTRACTORS = {
    "vgg16": "VGG16Extractor",
    "inception": "InceptionExtractor",
    "dinov2": "DINOv2Extractor",
    "efficientnet_lite0": "EfficientNetLite0Extractor",
    "pixels": "PixelExtractor",
}
GAP = 8


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description="Draw samples beside their nearest training images."
    )
    parser.add_argument("checkpoint", help="iter_N.pth of a run, or a .safetensors release file")
    parser.add_argument("--out", type=Path, required=True, help="a .png; a .json lies beside it")
    parser.add_argument("--num", type=int, default=8, help="how many samples (default 8)")
    parser.add_argument("--k", type=int, default=8, help="how many neighbours each (default 8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--extractor",
        default="vgg16",
        help=f"where distances are taken: {', '.join(EXTRACTORS)}, or timm:NAME (default vgg16)",
    )
    parser.add_argument("--weights", help="file of the extractor's weights")
    parser.add_argument(
        "--config", help="config whose training data is searched, instead of its own"
    )
    parser.add_argument(
        "--data",
        nargs="+",
        action=OptionsAction,
        default={},
        metavar="KEY=VALUE",
        help="arguments of the data set to change: root=/data split=test",
    )
    parser.add_argument("--num-data", type=int, help="search the first so many images only")
    parser.add_argument("--batch-size", type=int, default=50, help="images per pass")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--no-ema", action="store_true", help="use the generator as trained")
    parser.add_argument(
        "--import", nargs="+", default=[], dest="packages", help="packages that register modules"
    )
    return parser.parse_args()


def open_data(args: argparse.Namespace) -> Dataset:
    """Return the data set to search."""
    if args.config:
        config = load_config(args.config)
    else:
        config: Config = read_weights(args.checkpoint)[0]
        check_trusted_types(config.get("train_dataloader", {}), "train_dataloader")
    dataset = config.get("train_dataloader", {}).get("dataset")
    if dataset is None:
        raise UserError(f"{args.checkpoint} names no training data; name its config with --config")
    data = DATASETS.build({**dataset, **args.data})
    return data if args.num_data is None else Subset(data, range(min(args.num_data, len(data))))


def build_extractor(args: argparse.Namespace, image_shape: tuple[int, ...]) -> nn.Module:
    """Return the extractor that the command line asks for."""
    name = args.extractor
    weights = {} if args.weights is None else {"weights": args.weights}
    if name.startswith("timm:"):
        config = {"type": "TimmExtractor", "model_name": name.removeprefix("timm:"), **weights}
    elif name not in EXTRACTORS:
        raise UserError(f"--extractor is {name!r}; expected one of {[*EXTRACTORS, 'timm:NAME']}")
    elif name in ("pixels", "efficientnet_lite0") and weights:
        raise UserError(f"--weights is given, but {name} reads none")
    else:
        config = {"type": EXTRACTORS[name], **weights}
    if name == "pixels":
        config["image_shape"] = image_shape
    return MODELS.build(config)


def data_features(data: Dataset, extractor: nn.Module, args: argparse.Namespace) -> Tensor:
    """Return the features of all images, (N, D) on the CPU."""
    device = next(iter(extractor.parameters()), torch.empty(0)).device
    features = torch.empty(len(data), extractor.feature_dim)
    first = 0
    with progress_bar("features of the data", len(data)) as advance:
        for batch in DataLoader(data, args.batch_size):
            images = batch["x"].to(device)
            features[first : first + len(images)] = extract(extractor, images)["features"]
            first += len(images)
            advance(len(images))
    return features


def image(samples: Tensor, data: Dataset, found: Neighbours) -> np.ndarray:
    """Return an image with a row for each sample: itself, a gap, and its neighbours."""
    nearest = torch.stack([data[i]["x"] for i in found.indices.flatten().tolist()])
    left = image_grid(samples, columns=1)
    right = image_grid(nearest, columns=found.indices.shape[1])
    gap = np.full((len(left), GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def record(
    args: argparse.Namespace, data: Dataset, extractor: nn.Module, found: Neighbours
) -> dict[str, Any]:
    """Return what the JSON file says."""
    whole = data.dataset if isinstance(data, Subset) else data
    return {
        "checkpoint": args.checkpoint,
        "seed": args.seed,
        "ema": not args.no_ema,
        "extractor": {"name": extractor.name, "digest": extractor.weights_digest},
        "data": {"name": whole.name, "digest": whole.digest(), "searched": len(data)},
        "samples": [
            {"index": index, "neighbours": neighbours, "distances": distances}
            for index, (neighbours, distances) in enumerate(
                zip(found.indices.tolist(), found.distances.tolist(), strict=True)
            )
        ],
    }


def main() -> None:
    """Sample, search, draw and write."""
    args = parse_args()
    set_up_cpu()
    with user_errors():
        if min(args.num, args.k, args.batch_size) < 1 or (args.num_data or 1) < 1:
            raise UserError("--num, --k, --num-data and --batch-size: expected at least 1")
        if args.out.suffix != ".png":
            raise UserError(f"--out is {str(args.out)!r}; expected a name that ends in .png")
        import_packages(args.packages)
        model = load_model(args.checkpoint, args.device)
        if len(model.data_shape) != 3:
            raise UserError("the model makes points; nearest neighbours are drawn of images")
        data = open_data(args)
        if tuple(data[0]["x"].shape) != tuple(model.data_shape):
            raise UserError(
                f"the images of the data are {tuple(data[0]['x'].shape)}, but the samples "
                f"{tuple(model.data_shape)}; expected the data that the model was trained on"
            )
        extractor = build_extractor(args, tuple(model.data_shape)).to(model.device)
        samples = model.sample(
            args.num,
            seed=args.seed,
            batch_size=min(args.num, auto_batch_size(model)),
            use_ema=not args.no_ema,
        )
        queries = extract(extractor, samples)["features"]
        found = nearest_neighbours(queries, data_features(data, extractor, args), args.k)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(samples, data, found)).save(args.out)
        details = args.out.with_suffix(".json")
        details.write_text(json.dumps(record(args, data, extractor, found), indent=2) + "\n")
        print(f"samples (left) and their {args.k} nearest training images are in {args.out}")
        print(f"indices and distances are in {details}")


if __name__ == "__main__":
    main()

"""Draw samples next to their nearest training images (DDGAN, Fig. 16 and 17).

python tools/neighbours.py CHECKPOINT --out neighbours.png
"""

import ddgan.utils.threads  # noqa: F401, before torch

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
from ddgan.evaluation.extractors import EXTRACTOR_BATCH, extract
from ddgan.evaluation.manifold import Neighbours, nearest_neighbours
from ddgan.registry import DATASETS, MODELS
from ddgan.utils.cli import add_options, at_least, progress_bar, running
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
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Draw samples next to their nearest training images."
    )
    add_options(parser, "checkpoint")
    parser.add_argument(
        "--out", type=Path, required=True, help="a .png; a .json is written with it"
    )
    parser.add_argument("--num", type=at_least(1), default=8, help="samples (default 8)")
    parser.add_argument("--k", type=at_least(1), default=8, help="neighbours of each (default 8)")
    parser.add_argument(
        "--extractor",
        default="vgg16",
        help=f"the space of distances: {', '.join(EXTRACTORS)}, or timm:NAME (default vgg16)",
    )
    parser.add_argument("--weights", help="file of the extractor's weights")
    parser.add_argument("--config", help="config whose training data is searched")
    parser.add_argument("--num-data", type=at_least(1), help="search only the first N images")
    add_options(parser, "--data", "--seed", "--device", "--no-ema", "--import")
    return parser.parse_args()


def open_data(args: argparse.Namespace) -> Dataset:
    """Build the data set to search."""
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
    """Build the extractor that the command line names."""
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


def data_features(data: Dataset, extractor: nn.Module) -> Tensor:
    """The features (N, D) of all images, on the CPU."""
    device = next(iter(extractor.parameters()), torch.empty(0)).device
    features = torch.empty(len(data), extractor.feature_dim)
    first = 0
    with progress_bar("features of the data", len(data)) as advance:
        for batch in DataLoader(data, EXTRACTOR_BATCH):
            images = batch["x"].to(device)
            features[first : first + len(images)] = extract(extractor, images)["features"]
            first += len(images)
            advance(len(images))
    return features


def image(samples: Tensor, data: Dataset, found: Neighbours) -> np.ndarray:
    """An image with a row for each sample: the sample, a gap, and its neighbours."""
    nearest = torch.stack([data[i]["x"] for i in found.indices.flatten().tolist()])
    left = image_grid(samples, columns=1)
    right = image_grid(nearest, columns=found.indices.shape[1])
    gap = np.full((len(left), GAP, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def record(
    args: argparse.Namespace, data: Dataset, extractor: nn.Module, found: Neighbours
) -> dict[str, Any]:
    """The content of the JSON file."""
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
    with running(args):
        if args.out.suffix != ".png":
            raise UserError(f"--out is {str(args.out)!r}; expected a name that ends in .png")
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
        found = nearest_neighbours(queries, data_features(data, extractor), args.k)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(samples, data, found)).save(args.out)
        details = args.out.with_suffix(".json")
        details.write_text(
            json.dumps(record(args, data, extractor, found), indent=2) + "\n", encoding="utf-8"
        )
        print(f"samples (left) and their {args.k} nearest training images are in {args.out}")
        print(f"indices and distances are in {details}")


if __name__ == "__main__":
    main()

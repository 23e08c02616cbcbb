"""Real photos, prepared by the tool and scored with a real pretrained network: the order counts.

Real against real must score better than blurred photos and than a set of few kinds, and worse
blur worse: the least that is expected of a measure of quality and variety.
"""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from ddgan.data import ImageMemmap
from ddgan.data.decoding import to_image, to_tensor
from ddgan.evaluation import EfficientNetLite0Extractor, feature_statistics, frechet_distance

NUM = 240


@pytest.fixture(scope="module")
def features(real_data, tmp_path_factory, load_tool):
    """Features (NUM, 1280) of sets of emoji at 64 pixels, by the set's name."""
    root = tmp_path_factory.mktemp("emoji")
    (root / "in").mkdir()
    paths = sorted((real_data / "fluent-emoji").glob("*.webp"))
    for i in np.random.default_rng(0).permutation(len(paths))[: 2 * NUM]:
        (root / "in" / paths[i].name).symlink_to(paths[i])
    with pytest.MonkeyPatch.context() as patch:
        arguments = [root / "in", root / "emoji.npy", "--size", 64, "--workers", 0]
        patch.setattr("sys.argv", ["prepare_data.py", *map(str, arguments)])
        load_tool("prepare_data").main()
    data = ImageMemmap(root / "emoji.npy", image_size=64)
    assert len(data) == 2 * NUM
    order = np.random.default_rng(1).permutation(2 * NUM).tolist()
    images = torch.stack([item["x"] for item in data.__getitems__(order)])
    # A photo is that of its file, laid over white and shrunk by Pillow alone.
    first = sorted((root / "in").iterdir())[order[0]]
    with Image.open(first) as opened:
        white = Image.new("RGBA", opened.size, (255, 255, 255, 255))
        expected = Image.alpha_composite(white, opened.convert("RGBA")).convert("RGB")
    expected = to_tensor(expected.resize((64, 64), Image.Resampling.LANCZOS))
    assert (images[0].int() - expected.int()).abs().max() <= 1
    extractor = EfficientNetLite0Extractor(image_size=64)

    def extract(photos):
        return torch.cat([extractor(part)["features"] for part in photos.split(40)])

    def blurred(sigma):
        blur = ImageFilter.GaussianBlur(sigma)
        return torch.stack([to_tensor(to_image(x).filter(blur)) for x in images[NUM:]])

    real = extract(images[NUM:])
    return {
        "reference": extract(images[:NUM]),
        "real": real,
        "blurred by 1": extract(blurred(1.0)),
        "blurred by 2": extract(blurred(2.0)),
        "24 kinds": real[:24].repeat(NUM // 24, 1),
    }


def test_real_images_score_best(features):
    statistics = {name: feature_statistics(values) for name, values in features.items()}
    reference = statistics.pop("reference")
    score = {
        name: frechet_distance(reference.mean, reference.cov, s.mean, s.cov)
        for name, s in statistics.items()
    }
    assert score["real"] < 0.9 * score["blurred by 1"], score
    assert score["blurred by 1"] < 0.9 * score["blurred by 2"], score
    assert score["real"] < 0.8 * score["24 kinds"], score

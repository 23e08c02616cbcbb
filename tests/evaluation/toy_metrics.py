"""An extractor and metrics of few numbers, which tests of the pipeline compute again."""

import os
import signal
from pathlib import Path

import torch
from torch import nn

from ddgan.evaluation import FeatureMetric
from ddgan.registry import METRICS, MODELS


@MODELS.register_module()
class ToyFeatures(nn.Module):
    """Two channels' means and standard deviations.

    The images that it sees are counted in a file; after so many it kills its process.
    """

    feature_dim = 4

    def __init__(self, tag: str = "a", log: str | None = None, kill_after: int = 10**9):
        super().__init__()
        self.name = "toy"
        self.weights_digest = f"digest-{tag}"
        self.log = log
        self.seen, self.kill_after = 0, kill_after

    def forward(self, images):
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        self.seen += len(images)
        if self.seen > self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{len(images)}\n")
        flat = images[:, :2].flatten(2).double()
        features = torch.cat([flat.mean(2), flat.std(2)], dim=1).float()
        return {"features": features, "logits": features[:, :2]}


class ToyMetric(FeatureMetric):
    version = "7"

    def __init__(
        self,
        num: int = 60,
        num_real: int | None = None,
        extractor: dict | None = None,
        jpeg: int | None = None,
    ):
        self.num = num
        self.jpeg = jpeg
        self.num_real = num_real
        self.extractor = extractor or {"type": "ToyFeatures"}


@METRICS.register_module()
class ToyDistance(ToyMetric):
    """Distance of the means, and the sum of the variances of the real ones."""

    needs = "statistics"

    def __call__(self, fake, real):
        distance = (fake["features"].double().mean(0) - real.mean).norm()
        return {"toy": float(distance), "spread": float(real.cov.trace()), "real": real.num}


@METRICS.register_module()
class ToyPairs(ToyMetric):
    """Mean distance of each sample from the nearest real image."""

    needs = "features"

    def __call__(self, fake, real):
        distances = torch.cdist(fake["features"].double(), real["features"].double())
        nearest = distances.min(1).values
        return {"pairs": float(nearest.mean()), "real": len(real["features"])}


@METRICS.register_module()
class ToyScore(ToyMetric):
    """A number of the logits alone."""

    needs = "nothing"

    def __call__(self, fake, real):
        assert real is None
        return {"score": float(fake["logits"].double().std())}

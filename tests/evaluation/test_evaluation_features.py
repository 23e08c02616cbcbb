"""A series of images in shards; tests/tools/test_test_tool.py has whole evaluations."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddgan.data.decoding import to_image, to_tensor
from ddgan.evaluation import features
from ddgan.evaluation.cache import ShardCache
from ddgan.evaluation.features import FeatureRequest, compute_features, concatenate, through_jpeg

NOWHERE = ShardCache(None, {})


def numbered(asked):
    """Images that are their indices; what is asked for goes into a list."""

    def images(batches):
        for batch in batches:
            asked.append(batch)
            yield torch.tensor(batch)

    return images


@settings(deadline=None)
@given(a=st.integers(0, 70), b=st.integers(0, 70), batch=st.integers(1, 9))
def test_shards_cover_a_series_once_whatever_the_batch(a, b, batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "SHARD_SIZE", 20)
        asked = []
        requests = {"a": FeatureRequest(a, None, NOWHERE), "b": FeatureRequest(b, None, NOWHERE)}
        shards = list(compute_features(numbered(asked), requests, batch, ""))
    assert [i for part in asked for i in part] == list(range(max(a, b)))
    for name, num in (("a", a), ("b", b)):
        parts = [shard[name] for shard in shards if name in shard]
        found = concatenate(parts)["samples"].tolist() if parts else []
        assert found == list(range(num))


def test_only_what_no_file_has_is_computed_again(tmp_path):
    asked, cache = [], ShardCache(tmp_path, {"series": 1})

    def run(num):
        requests = {"a": FeatureRequest(num, None, cache)}
        return concatenate([s["a"] for s in compute_features(numbered(asked), requests, 100, "")])

    whole = run(1_100)
    (cache.folder / "shard_000001.safetensors").write_bytes(b"damaged")
    del asked[:]
    assert torch.equal(run(1_100)["samples"], whole["samples"])
    assert [(part.start, part.stop) for part in asked] == [
        (n, n + 100) for n in range(500, 1000, 100)
    ]


def test_jpeg_is_that_of_pillow_and_of_samples_alone():
    images = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8)
    file = io.BytesIO()
    to_image(images[1]).save(file, "JPEG", quality=75)
    found = through_jpeg(images, 75)
    assert torch.equal(found[1], to_tensor(Image.open(file)))
    assert found.shape == images.shape
    assert not torch.equal(found, through_jpeg(images, 90))
    flat = {"jpeg": 75, "cache": NOWHERE, "num": 3}
    assert torch.equal(FeatureRequest(extractor=None, **flat).compute(images)["samples"], images)
    extractor = lambda x: {"features": x.flatten(1)}  # noqa: E731
    outputs = FeatureRequest(extractor=extractor, **flat).compute(images)
    assert torch.equal(outputs["features"], found.flatten(1))

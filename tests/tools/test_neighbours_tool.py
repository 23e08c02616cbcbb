import json

import numpy as np
import pytest
from PIL import Image

from ddgan.apis import load_model
from ddgan.data import StackedDigits


@pytest.fixture
def neighbours(call_tool, lively, tmp_path):
    def run(*arguments):
        out = tmp_path / "deep" / "n.png"
        arguments = ("--device", "cpu", "--num", 3, "--k", 4, "--out", out, *arguments)
        return *call_tool("neighbours", lively, *arguments), out

    return run


def test_pixels_nearest_to_samples_are_drawn_beside_them(neighbours, lively):
    status, output, out = neighbours("--extractor", "pixels", "--seed", 3)
    assert status == 0, output
    assert str(out) in output
    record = json.loads(out.with_suffix(".json").read_text())
    samples = load_model(lively, device="cpu").sample(3, seed=3).numpy()
    data = StackedDigits(num_samples=20)
    images = np.stack([data[i]["x"].numpy() for i in range(20)])
    distances = [
        np.linalg.norm((images - sample.astype(float)).reshape(20, -1) / 255, axis=1)
        for sample in samples
    ]
    for own, entry in zip(distances, record["samples"], strict=True):
        assert entry["neighbours"] == np.argsort(own, kind="stable")[:4].tolist()
        np.testing.assert_allclose(entry["distances"], np.sort(own)[:4], rtol=1e-5)
    assert record["data"] == {"name": data.name, "digest": data.digest(), "searched": 20}
    assert record["extractor"]["name"] == "pixels_3x8x8"
    # Tiles of 8 pixels are enlarged to 32, with gaps of 2 between, and 8 after the samples.
    drawn = np.asarray(Image.open(out))
    assert drawn.shape == (3 * 34 - 2, 32 + 8 + 4 * 34 - 2, 3)
    np.testing.assert_array_equal(drawn[34:66:4, 0:32:4], samples[1].transpose(1, 2, 0))
    second = images[record["samples"][2]["neighbours"][1]]
    np.testing.assert_array_equal(drawn[68::4, 40 + 34 : 40 + 66 : 4], second.transpose(1, 2, 0))


def test_a_pretrained_network_and_other_data(neighbours):
    status, output, out = neighbours(
        "--extractor", "efficientnet_lite0", "--data", "split=test", "--num-data", 6
    )
    assert status == 0, output
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["data"]["searched"] == 6
    assert record["data"]["digest"] == StackedDigits(split="test", num_samples=20).digest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--extractor", "nothing"], "expected one of"),
        (["--extractor", "pixels", "--weights", "a.pth"], "pixels reads none"),
        (["--extractor", "pixels", "--num-data", 3], "k is 4; expected 1 to 3"),
        (["--out", "a.jpg"], r"ends in .png"),
    ],
)
def test_says_what_is_wrong(neighbours, arguments, message):
    status, output, out = neighbours(*arguments)
    assert status == 1
    assert message in output
    assert not out.exists()

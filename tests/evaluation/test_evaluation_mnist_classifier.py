"""StackedMNIST's protocol on the real MNIST, with the classifier that it is measured with."""

import gzip
import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from ddgan.data import StackedMNIST, load_mnist_images
from ddgan.evaluation import MnistFeatures, finite_sample_floor
from ddgan.evaluation import mnist_classifier as module
from ddgan.evaluation.metrics import MnistModes
from ddgan.evaluation.mnist_classifier import (
    mnist_classifier,
    real_mode_coverage,
    stacked_mnist_distribution,
    train_classifier,
)


@pytest.fixture(scope="module")
def root(real_data):
    return str(real_data / "mnist")


@pytest.fixture(scope="module", autouse=True)
def trained(root, tmp_path_factory):
    """The classifier, trained once for the tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield mnist_classifier(root)


def test_accuracy_on_the_real_test_split(trained, root):
    images, labels = load_mnist_images(root, "test")
    found = trained.digits(torch.tensor(images)).numpy()
    assert len(labels) == 10_000
    assert trained.held_out_accuracy == (found == labels).mean() >= 0.985
    assert 300_000 < sum(p.numel() for p in trained.parameters()) < 500_000


def test_the_reference_of_real_data(trained, root):
    real = real_mode_coverage(trained, root, 25_600)
    assert real.modes == real.num_modes == 1000
    # Against scipy's entropy, from images rather than from digits.
    data = StackedMNIST(root, "test", num_samples=25_600)
    items = data.__getitems__(list(range(2_560)))
    labels = trained.modes(torch.stack([item["x"] for item in items]))
    few = real_mode_coverage(trained, root, 2_560)
    p = np.bincount(labels, minlength=1000) / 2_560
    assert few.kl == pytest.approx(stats.entropy(p, stacked_mnist_distribution(root)), rel=1e-9)
    assert np.mean(labels == [item["label"] for item in items]) > 0.95
    # The floor is what a finite number costs; errors and the other split's digits come on top.
    floor = finite_sample_floor(25_600, 1000)
    assert floor < real.kl < 1.5 * floor


def test_the_record_tells_dropped_modes(root):
    data = StackedMNIST(root, num_samples=3_000)
    items = data.__getitems__(list(range(3_000)))
    samples = torch.stack([item["x"] for item in items])
    metric = MnistModes(root=root)
    assert metric.num == 25_600
    whole = metric(samples)
    assert {"classifier_accuracy", "kl_floor", "real_modes", "real_kl"} < whole.keys()
    assert whole["modes"] > 900
    assert whole["kl_floor"] == 999 / 6000
    assert whole["kl"] == pytest.approx(whole["real_kl"], rel=0.2)
    # Without sevens in the red channel a tenth of the modes is gone.
    labels = np.array([item["label"] for item in items])
    dropped = metric(samples[torch.from_numpy(labels // 100 != 7)])
    assert dropped["modes"] < 0.93 * whole["modes"]
    assert dropped["kl"] > whole["kl"] + 0.5 * np.log(10 / 9)


def test_kept_weights_are_used_and_damage_is_noticed(trained, root, monkeypatch, tmp_path):
    def fail(*arguments):
        raise AssertionError("it is trained again")

    monkeypatch.setattr(module, "train_classifier", fail)
    again = mnist_classifier(root)
    for ours, theirs in zip(again.parameters(), trained.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    (path,) = (module.cache_root() / "classifiers").iterdir()
    shutil.copy(path, tmp_path / "kept")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(AssertionError, match="trained again"):
        mnist_classifier(root)
    shutil.copy(tmp_path / "kept", path)
    monkeypatch.setattr(module, "RECIPE_VERSION", -1)
    with pytest.raises(AssertionError, match="trained again"):
        mnist_classifier(root)


def test_other_data_give_another_classifier(root, tmp_path, monkeypatch):
    images, labels = load_mnist_images(root, "test")
    for prefix, count in (("train", 300), ("t10k", 50)):
        for kind, values, head in (
            ("images-idx3", images[:count], (0x803, count, 28, 28)),
            ("labels-idx1", labels[:count].astype(np.uint8), (0x801, count)),
        ):
            content = np.array(head, ">i4").tobytes() + values.tobytes()
            (tmp_path / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    before = len(list((module.cache_root() / "classifiers").iterdir()))
    small = mnist_classifier(tmp_path)
    assert len(list((module.cache_root() / "classifiers").iterdir())) == before + 1
    assert small.held_out_accuracy < 0.985


def test_training_depends_on_the_data_alone():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (200, 28, 28), np.uint8))
    labels = torch.arange(200) % 10
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        with torch.inference_mode():
            states.append(train_classifier(images, labels).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_features(trained, root):
    features = MnistFeatures(root)
    items = StackedMNIST(root, num_samples=8).__getitems__(list(range(8)))
    images = torch.stack([item["x"] for item in items])
    found = features(images)["features"]
    assert (found.shape, found.dtype) == ((8, features.feature_dim), torch.float32)
    assert len(features.weights_digest) == 64
    # Each channel's part is that of the channel alone, whatever is next to it.
    swapped = features(images[:, [2, 0, 1]])["features"]
    torch.testing.assert_close(found.roll(128, dims=1), swapped)
    logits = trained.logits(found.reshape(8, 3, 128))
    assert (logits.argmax(-1).numpy() @ [100, 10, 1] == trained.modes(images)).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 27, 32, dtype=torch.uint8), "at least 28x28"),
        (torch.zeros(2, 3, 32, 32), "expected uint8"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), r"expected \(N, 3, H, W\)"),
    ],
)
def test_other_images_are_refused(trained, images, message):
    with pytest.raises(ValueError, match=message):
        trained.modes(images)

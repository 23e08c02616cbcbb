import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from extractor_weights import write_dinov2, write_inception, write_vgg16
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from ddgan.errors import CheckpointError, UserError
from ddgan.evaluation import (
    DINOv2Extractor,
    EfficientNetLite0Extractor,
    InceptionExtractor,
    PixelExtractor,
    TimmExtractor,
    VGG16Extractor,
    pretrained,
)
from ddgan.evaluation.extractors import extract, normalised
from ddgan.evaluation.pretrained import import_timm, import_torch_fidelity
from ddgan.utils.files import file_sha256


def noise(n, channels=3, size=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, channels, size, size)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def inception_file(folder):
    return write_inception(folder / "inception.pth")


def check(extractor, images):
    """Check what every extractor promises, and return its outputs for uint8 photos."""
    outputs = extractor(images)
    assert outputs["features"].shape == (len(images), extractor.feature_dim)
    assert all(value.dtype == torch.float32 for value in outputs.values())
    assert not any(p.requires_grad for p in extractor.parameters())
    extractor.train()
    assert not any(module.training for module in extractor.modules())
    single = extractor(images[:1])["features"]
    torch.testing.assert_close(single, outputs["features"][:1], rtol=1e-4, atol=1e-4)
    grey = extractor(images[:1, :1])["features"]
    repeated = extractor(images[:1, :1].repeat(1, 3, 1, 1))["features"]
    torch.testing.assert_close(grey, repeated)
    for wrong in (images.float(), images[:, :2], images[0]):
        with pytest.raises(ValueError, match="expected uint8"):
            extractor(wrong)
    return outputs


def test_inception_is_that_of_torch_fidelity(inception_file):
    extractor = InceptionExtractor(weights=str(inception_file))
    assert (extractor.name, extractor.feature_dim) == ("inception_fid", 2048)
    assert extractor.weights_digest == file_sha256(inception_file)
    images = noise(2)
    outputs = check(extractor, images)
    assert outputs["logits"].shape == (2, 1008)
    assert outputs["features"].std() > 1e-3
    build = import_torch_fidelity().FEATURE_EXTRACTORS_REGISTRY["inception-v3-compat"]
    theirs = build(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(inception_file),
    )
    expected = theirs(images)
    assert torch.equal(outputs["features"], expected[0])
    assert torch.equal(outputs["logits"], expected[1])


def test_inception_resizes_as_pytorch_fid(inception_file):
    tensorflow = InceptionExtractor(weights=str(inception_file))
    extractor = InceptionExtractor(weights=str(inception_file), resize="pytorch")
    assert (extractor.name, tensorflow.name) == ("inception_pytorch_fid", "inception_fid")
    assert extractor.weights_digest == tensorflow.weights_digest
    # In words of pytorch-fid: bilinear without aligned corners in [0, 1], then 2 x - 1.
    images = noise(2, size=32)
    seen = []
    extractor.network.Conv2d_1a_3x3.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    features = extractor(images)["features"]
    x = F.interpolate(images.float() / 255, size=(299, 299), mode="bilinear", align_corners=False)
    assert torch.equal(seen[0], 2 * x - 1)
    # TensorFlow 1 puts the first pixel's centre at 0, and so shifts the image.
    assert (features - tensorflow(images)["features"]).abs().max() > 0.01 * features.std()
    # An image of 299 pixels is resized by neither; the grey levels differ by half a level.
    whole = noise(1, size=299)
    both = [one(whole)["features"] for one in (extractor, tensorflow)]
    torch.testing.assert_close(*both, rtol=0.05, atol=0.05 * float(both[0].std()))
    with pytest.raises(ValueError, match="resize is 'bicubic'"):
        InceptionExtractor(weights=str(inception_file), resize="bicubic")


def test_vgg16_is_that_of_torchvision(folder):
    path = write_vgg16(folder / "vgg16.pth")
    extractor = VGG16Extractor(weights=str(path))
    assert (extractor.name, extractor.feature_dim) == ("vgg16_fc2", 4096)
    images = noise(1, size=224)
    features = extractor(images)["features"]
    import torchvision

    with torch.device("meta"):
        network = torchvision.models.vgg16().eval()
    network.load_state_dict(torch.load(path, weights_only=True), assign=True)
    x = normalised(images, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    hidden = network.features(x).flatten(1)
    for layer in list(network.classifier)[:5]:  # up to the activation of the second hidden layer
        hidden = layer(hidden)
    torch.testing.assert_close(features, hidden.detach(), rtol=1e-4, atol=1e-4)
    assert features.std() > 1e-3


def interpolated_positions(grid, size):
    """Bicubic interpolation in DINOv2's coordinates: those of size + 0.1 samples, from the left."""
    side = grid.shape[1]
    step = side / (size + 0.1)
    weights = torch.zeros(size, side, dtype=torch.float64)

    def kernel(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    for i in range(size):
        centre = (i + 0.5) * step - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[i, min(max(tap, 0), side - 1)] += kernel(centre - tap)
    return torch.einsum("ia,jb,dab->dij", weights, weights, grid.double())


def test_dinov2_is_its_network_at_224_pixels(folder):
    path = write_dinov2(folder / "dinov2.pth")
    extractor = DINOv2Extractor(size="small", weights=str(path))
    assert (extractor.name, extractor.feature_dim) == ("dinov2_vits14", 384)
    state = torch.load(path, weights_only=True)
    grid = state["pos_embed"][0, 1:].T.reshape(384, 37, 37)
    expected = interpolated_positions(grid, 16).flatten(1).T
    torch.testing.assert_close(
        extractor.network.pos_embed[0, 1:].double(), expected, rtol=1e-4, atol=1e-5
    )
    features = check(extractor, noise(1, size=224))["features"]
    # Written out: patches, class token, blocks of attention and MLP with scales, last norm.
    x = normalised(noise(1, size=224), (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    x = torch.cat([state["cls_token"], x.flatten(2).mT], dim=1)
    x = x + torch.cat([state["pos_embed"][:, :1], expected[None].float()], dim=1)
    for i in range(12):
        s = {k.removeprefix(f"blocks.{i}."): v for k, v in state.items() if f"blocks.{i}." in k}
        y = F.layer_norm(x, (384,), s["norm1.weight"], s["norm1.bias"], 1e-6)
        y = F.linear(y, s["attn.qkv.weight"], s["attn.qkv.bias"]).unflatten(-1, (3, 6, 64))
        q, k, v = y.permute(2, 0, 3, 1, 4)
        y = ((q @ k.mT / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + s["ls1.gamma"] * F.linear(y, s["attn.proj.weight"], s["attn.proj.bias"])
        y = F.layer_norm(x, (384,), s["norm2.weight"], s["norm2.bias"], 1e-6)
        y = F.gelu(F.linear(y, s["mlp.fc1.weight"], s["mlp.fc1.bias"]))
        x = x + s["ls2.gamma"] * F.linear(y, s["mlp.fc2.weight"], s["mlp.fc2.bias"])
    x = F.layer_norm(x, (384,), state["norm.weight"], state["norm.bias"], 1e-6)
    torch.testing.assert_close(features, x[:, 0], rtol=1e-3, atol=1e-3)


def test_dinov2_refuses_other_sizes(folder):
    with pytest.raises(ValueError, match="'giant'; expected one of"):
        DINOv2Extractor(size="giant")


def test_timm_network_with_weights_of_a_file(folder):
    timm = import_timm()
    torch.manual_seed(1)
    network = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    path = folder / "mobilenet.pth"
    torch.save(network.state_dict(), path)
    extractor = TimmExtractor("mobilenetv3_small_050", weights=str(path), image_size=64)
    assert extractor.name == "timm_mobilenetv3_small_050_64"
    assert extractor.weights_digest == file_sha256(path)
    images = noise(2, size=64)
    outputs = check(extractor, images)
    x = normalised(images, (64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = network.forward_head(network.forward_features(x), pre_logits=True)
    torch.testing.assert_close(outputs["features"], expected.detach(), rtol=1e-4, atol=1e-5)


def test_timm_says_what_is_missing(folder, monkeypatch):
    with pytest.raises(UserError, match="'no_such_net', which timm does not know"):
        TimmExtractor("no_such_net")
    torch.save({"weight": torch.zeros(2)}, folder / "other.pth")
    with pytest.raises(CheckpointError, match="does not hold the weights of mobilenetv3"):
        TimmExtractor("mobilenetv3_small_050", weights=str(folder / "other.pth"))
    timm = import_timm()

    def offline(*arguments, **keywords):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"no route to host.*model\.safetensors.*'weights'"):
        TimmExtractor("mobilenetv3_small_050")


def test_weights_of_another_network_are_refused(folder, inception_file):
    torch.save({"weight": torch.zeros(2)}, folder / "another.pth")
    with pytest.raises(
        CheckpointError, match=r"another\.pth does not hold the weights of weights-"
    ):
        InceptionExtractor(weights=str(folder / "another.pth"))
    with pytest.raises(CheckpointError, match="does not hold the weights of dinov2_vits14"):
        DINOv2Extractor(size="small", weights=str(folder / "another.pth"))


def test_pixels_are_the_images():
    images = noise(3, size=5)
    extractor = PixelExtractor(image_shape=[3, 5, 5])
    features = check(extractor, images)["features"]
    assert torch.equal(features, images.reshape(3, 75).float() / 255)
    grey = PixelExtractor(image_shape=(1, 5, 5))
    assert grey.feature_dim == 25
    assert torch.equal(grey(images[:, :1])["features"], images[:, 0].reshape(3, 25).float() / 255)
    assert grey.weights_digest != extractor.weights_digest
    with pytest.raises(ValueError, match="expected the same"):
        extractor(noise(1, size=6))
    with pytest.raises(ValueError, match="image_shape"):
        PixelExtractor(image_shape=(2, 5, 5))


@pytest.mark.parametrize("size", [(96, 64), (7, 300)])
def test_resizing_is_that_of_pillow(size):
    """Nearly, since Pillow rounds and clips once more between the two directions."""
    photo = Image.fromarray(load_sample_images().images[1]).crop((100, 50, 300, 200))
    images = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    ours = normalised(images, size, (0, 0, 0), (1, 1, 1))[0].permute(1, 2, 0) * 255
    theirs = np.asarray(photo.resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.float32)
    difference = np.abs(ours.numpy() - theirs)
    assert difference.mean() < 0.6
    assert difference.max() < 5


def test_a_pretrained_network_recognises_photographs():
    """A Chinese temple among buildings of ImageNet, and a flower."""
    extractor = EfficientNetLite0Extractor()
    temple, flower = (
        torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
        for photo in load_sample_images().images
    )
    buildings = {442, 449, 497, 538, 663, 698, 832}  # bell cote to stupa
    assert extractor.name == "efficientnet_lite0_224"
    assert extractor(temple)["logits"].argmax().item() in buildings
    assert extractor(flower)["logits"].argmax().item() == 985  # daisy


def test_lite0_keeps_its_promises():
    outputs = check(EfficientNetLite0Extractor(image_size=32), noise(2, size=40))
    assert outputs["logits"].shape == (2, 1000)
    with pytest.raises(ValueError, match="at least 32"):
        EfficientNetLite0Extractor(image_size=8)


@pytest.mark.parametrize(
    ("module", "use", "hint"),
    [
        ("torch_fidelity", import_torch_fidelity, r"ddgan\[eval\]"),
        ("timm", import_timm, r"ddgan\[timm\]"),
        ("efficientnet_lite_pytorch", EfficientNetLite0Extractor, "--no-deps"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, module, use, hint):
    monkeypatch.setitem(sys.modules, module, None)  # an import of it then fails as if it were not
    real_import = importlib.import_module

    def import_module(name, package=None):
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, package)

    monkeypatch.setattr(pretrained.importlib, "import_module", import_module)
    with pytest.raises(UserError, match=hint):
        use()


def test_nothing_optional_is_imported_before_it_is_used(tool_environment):
    code = (
        "import json, sys, ddgan.evaluation; "
        "print(json.dumps([m for m in ('torchvision', 'timm', 'torch_fidelity', "
        "'efficientnet_lite_pytorch') if m in sys.modules]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=tool_environment, capture_output=True, check=True
    )
    assert json.loads(result.stdout) == []


def test_grey_images_and_large_batches_are_extracted():
    sizes = []

    def extractor(images):
        sizes.append(tuple(images.shape))
        return {"features": images.flatten(1).float()}

    x = torch.randint(0, 256, (120, 1, 2, 2), dtype=torch.uint8)
    features = extract(extractor, x)["features"]
    assert torch.equal(features, x.expand(-1, 3, -1, -1).flatten(1).float())
    assert sizes == [(50, 3, 2, 2), (50, 3, 2, 2), (20, 3, 2, 2)]

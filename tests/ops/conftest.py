import os

import pytest

from ddgan.ops import backend
from ddgan.ops.backend import built_for, cpu_capability, load


def need_compiled_cpu() -> None:
    """Skip a test where the operators are not built, as without a compiler; in CI they must be."""
    if not built_for("cpu"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(load()))


@pytest.fixture(params=["torch", "cpu"])
def any_backend(request):
    """Run a test under the reference and under the compiled CPU operators."""
    if request.param == "cpu":
        need_compiled_cpu()
    with backend(request.param):
        yield request.param


@pytest.fixture
def compiled_cpu():
    """Run a test under the compiled CPU operators."""
    need_compiled_cpu()
    with backend("cpu"):
        yield


@pytest.fixture
def vectorized_cpu(compiled_cpu):
    """Run a test under the compiled CPU operators where convolutions are among them."""
    if cpu_capability() == "baseline":
        pytest.skip("convolutions are compiled for AVX2 and AVX-512")

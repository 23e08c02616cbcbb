import pytest

from ddgan.ops import library


@pytest.fixture(params=["torch", "cpu"])
def any_backend(request):
    """Run a test under the reference and under the compiled CPU operators."""
    if request.param == "cpu" and not library.built_for("cpu"):
        pytest.skip(str(library.load()))
    from ddgan.ops import backend

    with backend(request.param):
        yield request.param


@pytest.fixture
def compiled_cpu():
    """Run a test under the compiled CPU operators."""
    if not library.built_for("cpu"):
        pytest.skip(str(library.load()))
    from ddgan.ops import backend

    with backend("cpu"):
        yield

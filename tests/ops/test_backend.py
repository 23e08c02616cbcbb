import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ddgan import ops
from ddgan.ops.backend import kernels, load

# ddgan.ops.backend is the function.
backend_module = importlib.import_module("ddgan.ops.backend")
ROOT = Path(__file__).parents[2]


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *code.split(" ", 1)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match=r"'gpu'; expected one of auto, torch, cpu, cuda"):
        ops.backend("gpu").__enter__()


def test_backend_restores_the_previous_one() -> None:
    before = ops.current_backend()
    with pytest.raises(ValueError, match="factors"), ops.backend("torch"):
        ops.upfirdn2d(torch.ones(1, 1, 2, 2), (1.0,), up=0)
    assert ops.current_backend() == before
    with ops.backend("torch"):
        assert ops.current_backend() == "torch"
    assert ops.current_backend() == before


def test_asking_for_what_is_not_built_says_how_to_build(monkeypatch) -> None:
    monkeypatch.setattr(backend_module, "_built", {"cpu": True, "cuda": False})
    with pytest.raises(RuntimeError, match=r"'cuda' operators.*setup.py.*DDGAN_CUDA=1"):
        ops.backend("cuda").__enter__()


def test_backend_of_another_device_is_an_error(compiled_cpu) -> None:
    with pytest.raises(RuntimeError, match=r"'cpu' operators.*meta"):
        ops.downsample2d(torch.empty(1, 1, 4, 4, device="meta"))


@pytest.fixture
def two_gpus(monkeypatch) -> list[int]:
    """A V100 and an A100, and a library of CUDA 12 without kernels for the V100; lists probes."""
    asked = []

    def probe(index: int) -> bytes | None:
        asked.append(index)
        return b"no kernel image is available" if index == 0 else None

    library = SimpleNamespace(ddgan_cuda_probe=probe, ddgan_cuda_toolkit=lambda: 12080)
    monkeypatch.setattr("ctypes.CDLL", lambda path: library)
    monkeypatch.setattr(backend_module, "_built", {"cpu": True, "cuda": True})
    monkeypatch.setattr(backend_module, "_runs_on", {})
    monkeypatch.setattr(backend_module, "_current", "auto")
    monkeypatch.setattr(backend_module, "cpu_capability", lambda: "avx2")
    monkeypatch.setattr("torch.version.cuda", "12.8")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda i: ((7, 0), (8, 0))[i])
    monkeypatch.setattr("torch.cuda.get_device_name", lambda i: ("V100", "A100")[i])
    return asked


def _on_gpu(index: int):
    return SimpleNamespace(device=torch.device("cuda", index), is_floating_point=lambda: True)


def test_a_gpu_without_kernels_takes_the_reference_and_says_so_once(two_gpus, caplog) -> None:
    for _ in range(2):
        assert not backend_module.compiled(_on_gpu(0))
        assert backend_module.compiled(_on_gpu(1))
    assert two_gpus == [0, 1]
    assert len(caplog.messages) == 1
    assert "cuda:0" in caplog.text
    assert "TORCH_CUDA_ARCH_LIST=7.0" in caplog.text
    with ops.backend("cuda"):
        assert backend_module.compiled(_on_gpu(1))
        with pytest.raises(RuntimeError, match=r"'cuda' operators.*architecture 7\.0"):
            backend_module.compiled(_on_gpu(0))


def test_the_report_tells_each_gpu(two_gpus) -> None:
    report = backend_module.report()
    assert "on cuda:0  the PyTorch reference (V100, architecture 7.0)" in report
    assert "no kernel image is available" in report
    assert "on cuda:1  the compiled cuda operators (A100, architecture 8.0)" in report


def test_a_library_of_another_cuda_is_not_used(two_gpus, monkeypatch, caplog) -> None:
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert not backend_module.compiled(_on_gpu(1))
    assert "built with CUDA 12, but PyTorch uses CUDA 13.0" in caplog.text
    monkeypatch.setattr("ctypes.CDLL", lambda path: object())
    assert "older sources" in backend_module.cuda_problem(1)


def test_auto_takes_the_compiled_operator(compiled_cpu, monkeypatch) -> None:
    called = []
    monkeypatch.setattr(kernels, "upfirdn2d", lambda *a: called.append(a) or a[0])
    with ops.backend("auto"):
        ops.upsample2d(torch.ones(1, 1, 2, 2))
    with ops.backend("torch"):
        ops.upsample2d(torch.ones(1, 1, 2, 2))
    assert len(called) == 1


def test_environment_selects_and_report_tells() -> None:
    result = _python("-m ddgan.ops", DDGAN_OPS="torch")
    assert result.returncode == 0, result.stderr
    assert "on cpu     the PyTorch reference" in result.stdout
    missing = _python("-m ddgan.ops", DDGAN_OPS="cuda")
    assert "on cpu     an error" in missing.stdout
    wrong = _python("-c import\tddgan.ops", DDGAN_OPS="gpu")
    assert "DDGAN_OPS is 'gpu'; expected one of" in wrong.stderr


def test_without_the_library_the_reference_runs_and_says_so_once(tmp_path: Path) -> None:
    package = tmp_path / "ddgan"
    (package / "ops").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for source in (ROOT / "ddgan/ops").glob("*.py"):
        (package / "ops" / source.name).write_text(source.read_text())
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\nfrom ddgan import ops\n"
        "x = torch.ones(1, 1, 4, 4)\n"
        "print(ops.upsample2d(ops.downsample2d(x)).shape)\n"
    )
    result = _python(str(script), PYTHONPATH=str(tmp_path), DDGAN_OPS="")
    assert "torch.Size([1, 1, 4, 4])" in result.stdout, result.stderr
    assert result.stderr.count("not built") == 1
    forced = _python(str(script), PYTHONPATH=str(tmp_path), DDGAN_OPS="cpu")
    assert "asks for the 'cpu' operators, but" in forced.stderr
    assert "setup.py build_ext" in forced.stderr


def test_a_library_of_older_sources_is_not_used(compiled_cpu, monkeypatch) -> None:
    monkeypatch.setattr(backend_module, "_NEWEST", "of_tomorrow")
    reason = backend_module._load.__wrapped__()
    assert "was built from older sources; build them with" in reason
    monkeypatch.setattr(backend_module, "_load", lambda: reason)
    monkeypatch.setattr(backend_module, "_built", {})
    assert not backend_module.built_for("cpu")


@pytest.mark.skipif(load() is not None, reason="the library is not built")
@pytest.mark.parametrize("kernels", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same(kernels: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\nfrom ddgan import ops\n"
        "from ddgan.ops.backend import cpu_capability, load\n"
        "torch.manual_seed(0)\n"
        "x, a, b = torch.randn(2, 6, 9, 37), torch.randn(2, 6), torch.randn(2, 6)\n"
        "x.requires_grad_()\n"
        "def run(cast):\n"
        "    y = cast(x)\n"
        "    small = y[:, :, :8, :36]\n"
        "    y = ops.upsample2d(ops.downsample2d(y)) + ops.downsample2d(ops.upsample2d(small))\n"
        "    y = ops.fused_bias_leaky_relu(y, cast(a[0]))\n"
        "    y = ops.ada_group_norm(y, 3, cast(a), cast(b), activation='silu')\n"
        "    return y, torch.autograd.grad(y.double().square().sum(), x)[0]\n"
        "with ops.backend('torch'):\n    want = run(torch.Tensor.double)\n"
        "for cast, limit in ((lambda t: t, 1e-5), (torch.Tensor.half, 2e-2), "
        "(torch.Tensor.bfloat16, 2e-1)):\n"
        "    for g, w in zip(run(cast), want):\n"
        "        assert (g - w).abs().max() <= limit * w.abs().max(), (cast, g - w)\n"
        "w, v = torch.randn(50, 6, 3, 3), torch.randn(2, 50, 9, 37)\n"
        "assert load() is None\n"
        "conv, grad = torch.ops.ddgan.conv3x3, torch.ops.ddgan.conv3x3_weight\n"
        "pair = torch.nn.functional.conv2d(x.double(), w.double(), padding=1), \\\n"
        "    torch.nn.grad.conv2d_weight(x.double(), w.shape, v.double(), padding=1)\n"
        "for g, w in zip((conv(x, w, None, False), grad(x, v, False, False)[0]), pair):\n"
        "    assert (g - w).norm() <= 2e-6 * w.norm(), g - w\n"
        "print(cpu_capability())\n"
    )
    result = _python(str(script), DDGAN_CPU=kernels)
    assert result.returncode == 0, result.stderr
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    best = "avx512" if "avx512vl" in flags else "avx2" if "avx2" in flags else "baseline"
    order = ("baseline", "avx2", "avx512")
    assert result.stdout.strip() == min(kernels, best, key=order.index)


def test_upsampling_keeps_a_constant_away_from_the_border(any_backend) -> None:
    y = ops.upsample2d(torch.ones(1, 1, 6, 6))
    torch.testing.assert_close(y[..., 1:-1, 1:-1], torch.ones(1, 1, 10, 10))
    # A quarter of the filter's weight hangs over each border.
    assert y[0, 0, 0, 0].item() == pytest.approx(0.75**2)
    down = ops.downsample2d(torch.ones(1, 1, 6, 6))
    assert down[0, 0, 1, 1].item() == pytest.approx(1.0)
    assert down[0, 0, 0, 0].item() == pytest.approx(0.875**2)


def test_shapes_on_the_meta_device() -> None:
    x = torch.empty(2, 3, 5, 4, device="meta")
    with ops.backend("auto"):
        assert ops.upsample2d(x).shape == (2, 3, 10, 8)
        row = torch.empty(2, 3, device="meta")
        assert ops.ada_group_norm(x, 3, row, row).shape == x.shape
        assert ops.fused_bias_leaky_relu(x).shape == x.shape
        assert ops.same_conv2d(x, torch.empty(7, 3, 3, 3, device="meta")).shape == (2, 7, 5, 4)


def test_conv_downsample_is_filter_then_stride(any_backend) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 8, 10), torch.randn(4, 3, 3, 3)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)
    want = F.conv2d(F.conv2d(F.pad(x, (2, 2, 2, 2)), kernel, groups=3), weight, stride=2)
    torch.testing.assert_close(ops.conv_downsample2d(x, weight), want)


def test_a_learned_kernel_gets_its_gradient(any_backend) -> None:
    kernel = torch.tensor([1.0, 2.0], requires_grad=True)
    ops.upfirdn2d(torch.ones(1, 1, 3, 3), kernel).sum().backward()
    assert kernel.grad.tolist() == [24.0, 24.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.upfirdn2d(x[0], (1.0,)), r"expected \(N, C, H, W\)"),
        (lambda x: ops.upfirdn2d(x, (1.0,) * 33), "1 to 32 taps"),
        (lambda x: ops.upfirdn2d(x, (1.0,), up=9), "factors from 1 to 8"),
        (lambda x: ops.upfirdn2d(x, (1.0,) * 9), "smaller than the kernel"),
        (lambda x: ops.ada_group_norm(x, 3, x[..., 0, 0], x[..., 0, 0]), "multiple of num_groups"),
        (
            lambda x: ops.ada_group_norm(x, 2, x[0, :, 0, 0], x[..., 0, 0]),
            r"scale has shape \(4,\)",
        ),
        (
            lambda x: ops.ada_group_norm(x, 2, x[..., 0, 0], x[..., 0, 0], activation="relu"),
            "'relu'; expected None or 'silu'",
        ),
        (lambda x: ops.fused_bias_leaky_relu(x, torch.ones(3)), r"bias \(3,\); expected"),
        (lambda x: ops.fused_bias_leaky_relu(x, clamp=-1.0), "clamp is -1.0"),
    ],
)
def test_errors_name_the_value(any_backend, call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 4, 3, 3))

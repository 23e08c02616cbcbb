"""Training as a GPU sees it: what would wait for it, and, where there is one, what it computes."""

import collections
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddgan import ops
from ddgan.engine import load_config
from ddgan.engine.hooks import RunningMeans
from ddgan.engine.optim import build_optim_wrappers
from ddgan.models import DDPM
from ddgan.models import base as base_module
from ddgan.models.graphs import RecordedDraw
from ddgan.models.rng import StepRandom
from ddgan.registry import MODELS

ROOT = Path(__file__).parents[1]
IMAGES = "tests/configs/images.py"
CONFIGS = [
    IMAGES,
    "configs/ddgan_gaussians25.py",
    "configs/gan_gaussians25.py",
    "configs/wgangp_gaussians25.py",
    "configs/ddpm_gaussians25_t100.py",
    "configs/spigan_stackeddigits.py",
    "configs/stylegan2_stackeddigits.py",
]
aten = torch.ops.aten
# They read values on the host, give results whose size depends on values, or copy from the host.
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim,
    aten.is_nonzero, aten.equal, aten.lift_fresh, aten.repeat_interleave, aten.bincount,
}  # fmt: skip
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
needs_gpu = pytest.mark.gpu


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield torch.device("cuda")
    torch.cuda.set_sync_debug_mode("default")
    torch.backends.cudnn.allow_tf32 = tf32


class Waits(TorchDispatchMode):
    """Counts the operations for which a GPU would be waited for."""

    def __init__(self):
        super().__init__()
        self.seen = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kind = func.overloadpacket
        by_mask = kind in INDEXING and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if kind in WAITING or by_mask:
            self.seen[str(kind)] += 1
        return func(*args, **(kwargs or {}))


def build(path, device="cpu", amp="off", **options):
    cfg = load_config(ROOT / path, {key.replace("__", "."): v for key, v in options.items()})
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train().to(device)
    for wrapper in cfg.optim_wrapper.values():
        if isinstance(wrapper, dict):
            wrapper.amp = amp
    return model, build_optim_wrappers(cfg.optim_wrapper, model)


def batch_of(model, n=16):
    x = torch.rand(n, *model.data_shape, generator=torch.Generator().manual_seed(1))
    return {"x": (255 * x).to(torch.uint8) if x.ndim == 4 else x}


@pytest.mark.parametrize("path", CONFIGS)
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_train_step_reads_nothing_from_the_device(path, backend):
    model, optimizers = build(path, optim_wrapper__generator__clip_grad={"max_norm": 1.0})
    batch, means = batch_of(model), RunningMeans()
    with ops.backend(backend):
        model.train_step(batch, optimizers)
        model.iteration = 0  # where every penalty is due
        with Waits() as waits:
            for _ in range(2):
                means.add(model.train_step(batch, optimizers))
    # The seed of each step, from the CPU's generator.
    assert waits.seen == {"aten._local_scalar_dense": 2}


def test_waiting_is_noticed():
    x = torch.ones(3)
    with Waits() as waits:
        x[x > 0].sum().item()
        torch.tensor([1.0])
    assert len(waits.seen) == 3


class HostDraws:
    """The draws of a CPU, for a step on any device."""

    world_size = 1

    def __init__(self, batch_size, device):
        self.draws, self.device = StepRandom(batch_size, torch.device("cpu")), device

    def __getattr__(self, name):
        return lambda *arguments: getattr(self.draws, name)(*arguments).to(self.device)


@needs_gpu
@pytest.mark.parametrize("channels_last", [False, True])
def test_steps_on_a_gpu_are_those_on_a_cpu(gpu, monkeypatch, channels_last):
    monkeypatch.setattr(base_module, "StepRandom", HostDraws)
    layout = {f"model__{n}__channels_last": channels_last for n in ("generator", "discriminator")}
    options = {"model__generator__dropout": 0.0, "model__data_preprocessor__flip": False, **layout}
    results = []
    for device in ("cpu", gpu):
        model, optimizers = build(IMAGES, device, **options)
        start = flat(model).clone()
        logs = []
        for i in range(4):  # R1 in the first and the last
            torch.manual_seed(i)
            logs.append(model.train_step(batch_of(model), optimizers))
        results.append((logs, flat(model) - start))
    (want_logs, want), (got_logs, got) = results
    for wants, gots in zip(want_logs, got_logs, strict=True):
        for name, value in wants.items():
            torch.testing.assert_close(
                gots[name].cpu(), value, rtol=1e-3, atol=1e-4, equal_nan=True
            )
    # Adam moves a weight by its whole rate where the gradient is all rounding: not each agrees.
    assert (got - want).norm() < 0.05 * want.norm()


def flat(model):
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


@needs_gpu
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("path", CONFIGS)
def test_a_gpu_is_never_waited_for(gpu, path, amp):
    model, optimizers = build(path, gpu, amp)
    batch = {name: value.pin_memory() for name, value in batch_of(model).items()}
    means = RunningMeans()
    for _ in range(2):
        model.train_step(batch, optimizers)
    model.iteration = 0
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(2):
        means.add(model.train_step(batch, optimizers))
    torch.cuda.set_sync_debug_mode("default")
    assert all(value == value for value in means.pop().values())


@needs_gpu
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_is_not_finite_changes_nothing(gpu, amp, fused):
    model, optimizers = build(IMAGES, gpu, amp, optim_wrapper__generator__optimizer__fused=fused)
    model.train_step(batch_of(model), optimizers)
    wrapper = optimizers["generator"]
    skipped = wrapper.skips.read()[0]
    before = [p.clone() for p in model.generator.parameters()]
    scale = wrapper.scaler.get_scale()
    weight = next(model.generator.parameters())
    wrapper.update_params((weight * torch.inf).sum())
    assert all(torch.equal(p, q) for p, q in zip(model.generator.parameters(), before, strict=True))
    assert wrapper.skips.read()[0] == skipped + 1
    assert wrapper.scaler.get_scale() == (scale / 2 if amp == "fp16" else 1.0)
    model.train_step(batch_of(model), optimizers)
    assert all(p.isfinite().all() for p in model.generator.parameters())


@needs_gpu
def test_losses_in_mixed_precision_are_near_those_without(gpu):
    found = {}
    for amp in ("off", "bf16", "fp16"):
        model, optimizers = build(IMAGES, gpu, amp)
        torch.manual_seed(0)
        found[amp] = model.train_step(batch_of(model), optimizers)
    for amp in ("bf16", "fp16"):
        for name in ("d_loss", "g_loss", "r1"):
            torch.testing.assert_close(found[amp][name], found["off"][name], rtol=0.05, atol=0.02)


@needs_gpu
def test_graphs_follow_weights_samplers_and_precision(gpu):
    model, optimizers = build("configs/ddpm_gaussians25_t100.py", gpu)
    assert isinstance(model, DDPM)
    draw = RecordedDraw(model)
    for change in (
        lambda: None,
        lambda: model.set_sampler("ddim", 5),
        lambda: model.train_step(batch_of(model), optimizers),
        lambda: model.set_sampler("ddim", 5, eta=0.5),
    ):
        change()
        eager = model.sample(8, batch_size=4)
        graph = model.sample(8, batch_size=4, draw=draw)
        torch.testing.assert_close(graph, eager, rtol=1e-4, atol=1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        eager, graph = (model.sample(8, batch_size=4, draw=d) for d in (None, draw))
    torch.testing.assert_close(graph, eager, rtol=1e-2, atol=1e-2)


@needs_gpu
def test_a_run_on_a_gpu_resumes(gpu, tmp_path, train):
    options = {"device": "cuda", "visualizer__vis_backends": [{"type": "LocalVisBackend"}]}
    whole = train("points", tmp_path / "whole", **options).model
    train("points", tmp_path / "parts", train_cfg__max_iters=3, **options)
    parts = train("points", tmp_path / "parts", resume="auto", **options).model
    # The length was 3 when the schedules were made, so that the rates of the rest differ.
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-3)

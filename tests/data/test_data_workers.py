"""Processes that read data may be killed at any moment."""

import ast
import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from ddgan.data import ImageFolder
from ddgan.data.workers import Flag, reader_context
from ddgan.engine.loop import TrainLoop
from ddgan.errors import UserError


def _watch(flag, started) -> None:
    started.send(None)
    while not flag.is_set():
        pass


def test_a_process_killed_while_it_looks_leaves_the_flag_usable() -> None:
    context = multiprocessing.get_context("fork")
    flag = Flag(context)
    for _ in range(20):
        listener, started = context.Pipe(duplex=False)
        process = context.Process(target=_watch, args=(flag, started), daemon=True)
        process.start()
        listener.recv()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not flag.is_set()
    process = context.Process(target=_watch, args=(flag, started), daemon=True)
    process.start()
    flag.set()
    process.join()
    assert flag.is_set()
    assert process.exitcode == 0


@pytest.mark.parametrize("method", [None, "fork", "spawn"])
def test_loaders_use_it(method: str | None) -> None:
    data = TensorDataset(torch.arange(12.0))
    context = reader_context(2, method)
    if method is not None:
        assert context.get_start_method() == method
    loader = DataLoader(data, batch_size=3, num_workers=2, multiprocessing_context=context)
    batches = iter(loader)
    assert isinstance(batches._workers_done_event, Flag)
    assert torch.equal(torch.cat([batch for (batch,) in batches]), data.tensors[0])


def test_every_loader_uses_it() -> None:
    calls = [
        node
        for path in sorted((Path(__file__).parents[2] / "ddgan").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DataLoader"
    ]
    assert calls
    assert all("multiprocessing_context" in {k.arg for k in call.keywords} for call in calls)


def test_the_training_loop_uses_it() -> None:
    built = {}
    loader = SimpleNamespace(dataset=[0] * 8, batch_size=2)
    runner = SimpleNamespace(
        device=torch.device("cpu"),
        seed=0,
        _randomness_cfg={},
        model=torch.nn.Identity(),
        build_dataloader=lambda config, **_: built.update(config) or loader,
    )
    TrainLoop(runner, {"num_workers": 1, "dataset": [0] * 8, "batch_size": 2}, max_iters=1)
    assert isinstance(built["multiprocessing_context"].Event(), Flag)


def test_no_workers_need_no_context() -> None:
    assert reader_context(0) is None
    with pytest.raises(ValueError, match="vfork"):
        reader_context(1, "vfork")


@pytest.mark.parametrize("reason", ["No space left on device (28)", "Read-only file system (30)"])
def test_shared_memory_that_is_too_small_is_named(monkeypatch, reason) -> None:
    sizes = []

    def share(tensor):
        sizes.append(tensor.nbytes)
        raise RuntimeError(f"unable to write to file </torch_1>: {reason}\nmore")

    monkeypatch.setattr(torch.Tensor, "share_memory_", share)
    with pytest.raises(
        UserError, match=r"/dev/shm .* 600 MiB .*--shm-size.*num_workers=0"
    ) as error:
        reader_context(3, batch_bytes=100 << 20)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert sizes == [600 << 20]
    assert reader_context(0, batch_bytes=100 << 20) is None


def test_images_are_counted_without_shared_memory(tmp_path, monkeypatch, log) -> None:
    def share(tensor):
        raise RuntimeError("unable to open shared memory object")

    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(torch.Tensor, "share_memory_", share)
    assert len(ImageFolder(tmp_path)) == 1
    assert "/dev/shm cannot be used" in log[0]

"""Choosing a device, and joining a process group."""

import pytest
import torch

from ddgan.errors import ConfigError
from ddgan.utils.distributed import first_host, init_process_group, select_device


def test_first_host_of_slurm_lists():
    assert first_host("node7") == "node7"
    assert first_host("a1,b2") == "a1"
    assert first_host("gpu[003-007,9],login1") == "gpu003"
    assert first_host("rack[2,4]-ib") == "rack2-ib"
    assert first_host("x9,gpu[1-2]") == "x9"


def test_devices():
    assert select_device("cpu") == torch.device("cpu")
    for name in ("tpu", "cpu:1", "auto:0", "cuda:", "cuda:x", "cuda:-1"):
        with pytest.raises(ConfigError, match=f"device is '{name}'; expected one of"):
            select_device(name)


def test_gpus_are_named_or_dealt_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert select_device("auto") == select_device("cuda") == torch.device("cuda", 1)
    assert select_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match="device is 'cuda:2'; expected cuda:0 to cuda:1"):
        select_device("cuda:2")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=r"process 2 of this machine .* there are 2; start fewer"):
        select_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named():
    assert select_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="finds no CUDA device; use device 'cpu' or 'auto'"):
        select_device("cuda")


def test_launchers_without_their_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=r"'RANK', 'WORLD_SIZE'\] are not set; start the run"):
        init_process_group("pytorch", torch.device("cpu"), None, 10)
    with pytest.raises(ConfigError, match="'SLURM_PROCID' is not set; use srun"):
        init_process_group("slurm", torch.device("cpu"), None, 10)

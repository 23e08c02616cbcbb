"""Devices and process groups, on GPUs and on CPU-only machines alike."""

import datetime
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from ddgan.errors import ConfigError, TrainingError

DEVICES = ("auto", "cpu", "cuda")
DEFAULT_TIMEOUT = 1800
# What the errors of Gloo and NCCL have in common, where they are not of a class of their own.
_LOST = ("gloo", "NCCL", "Connection closed by peer", "Timed out waiting")


def select_device(name: str = "auto") -> torch.device:
    """Return the device of this process; ``"auto"`` is a GPU if there is one.

    Raises ConfigError if a GPU is asked for, or one per process is needed, and there is none.
    """
    if name not in DEVICES and not re.fullmatch(r"cuda:\d+", name):
        raise ConfigError(f"device is {name!r}; expected one of {DEVICES}, or cuda:N")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device is {name!r}, but torch {torch.__version__} finds no CUDA device; use "
            "device 'cpu' or 'auto', or install a CUDA build of torch and check nvidia-smi"
        )
    count = torch.cuda.device_count()
    if index := name.partition(":")[2]:
        if int(index) >= count:
            raise ConfigError(f"device is {name!r}; expected cuda:0 to cuda:{count - 1}")
        return torch.device("cuda", int(index))
    # Slurm's own name is read as well: the device is chosen before the processes join.
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    if local >= count:
        raise ConfigError(
            f"process {local} of this machine needs a GPU of its own, but there are {count}; "
            "start fewer processes"
        )
    return torch.device("cuda", local)


def init_process_group(
    launcher: str, device: torch.device, backend: str | None, timeout: int
) -> None:
    """Join the process group that torchrun or Slurm describes in the environment.

    The backend is NCCL on GPUs and Gloo on CPUs unless named; ``timeout`` is in seconds. Raises
    TrainingError if not all processes of the run have come within it.
    """
    if launcher == "slurm":
        _set_slurm_environment()
    missing = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} - set(os.environ)
    if missing:
        raise ConfigError(
            f"launcher is {launcher!r}, but {sorted(missing)} are not set; start the run with "
            "tools/dist_train.sh or tools/slurm_train.sh"
        )
    backend = backend or ("nccl" if device.type == "cuda" else "gloo")
    if backend == "nccl" and device.type != "cuda":
        raise ConfigError("env_cfg.dist_cfg.backend is 'nccl', which needs GPUs; use 'gloo'")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The control group's timeout, which ends in a message, is to come before NCCL's abort.
    seconds = timeout + (60 if backend == "nccl" else 0)
    try:
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=seconds))
    except dist.DistError as error:
        raise TrainingError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} could not join the others "
            f"at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} within {timeout} s "
            f"({str(error).splitlines()[0]}); check that all of them were started, with the same "
            "address and a port that is free"
        ) from None


def control_group(timeout: int) -> dist.ProcessGroup | None:
    """Return a group of all processes for messages between their CPUs; None for one process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.new_group(timeout=datetime.timedelta(seconds=timeout), backend="gloo")


def is_lost_process(error: Exception) -> bool:
    """Whether an error says that another process of the run has ended or hangs."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST)


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Turn errors of messages between processes into a TrainingError that a person can read."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise TrainingError(
            f"process {dist.get_rank()} has lost another process of the run, which ended or hangs: "
            "look for the first error in the logs of the others. Start the run again with --resume "
            f"({str(error).splitlines()[0]})"
        ) from error


def _set_slurm_environment() -> None:
    try:
        rank, world = os.environ["SLURM_PROCID"], os.environ["SLURM_NTASKS"]
        local, nodes = os.environ["SLURM_LOCALID"], os.environ["SLURM_NODELIST"]
    except KeyError as error:
        raise ConfigError(f"launcher is 'slurm', but {error} is not set; use srun") from None
    os.environ.update(RANK=rank, WORLD_SIZE=world, LOCAL_RANK=local)
    os.environ.setdefault("MASTER_ADDR", first_host(nodes))
    os.environ.setdefault("MASTER_PORT", "29500")


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list such as ``gpu[003-007,9],login1``."""
    prefix, bracket, rest = nodes.partition("[")
    if "," in prefix or not bracket:
        return nodes.split(",")[0]
    number = rest.split("]")[0].split(",")[0].split("-")[0]
    return prefix + number + rest.partition("]")[2].split(",")[0]

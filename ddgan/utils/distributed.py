"""Devices and process groups, on GPUs and on CPU-only machines alike."""

import ctypes
import datetime
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist

from ddgan.errors import ConfigError, LostProcessError, TrainingError, UserError
from ddgan.utils.files import sha256

DEVICES = ("auto", "cpu", "cuda")
DEFAULT_TIMEOUT = 1800
# What a launcher sets, and between which whole numbers.
_VARIABLES = {"RANK": (0, 2**31), "WORLD_SIZE": (1, 2**31), "MASTER_PORT": (1, 65535)}
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_WAIT_FOR_OTHERS = 10  # seconds
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
        set_slurm_environment()
    missing = {*_VARIABLES, "MASTER_ADDR"} - set(os.environ)
    if missing:
        raise ConfigError(
            f"launcher is {launcher!r}, but {sorted(missing)} are not set; start the run with "
            "tools/dist_train.sh or tools/slurm_train.sh"
        )
    _check_network()
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
        if "EADDRINUSE" in str(error):
            raise TrainingError(
                f"port {os.environ['MASTER_PORT']} of {os.environ['MASTER_ADDR']} is taken by "
                "another program or run; choose another one: PORT=29501 for tools/dist_train.sh "
                "and tools/dist_test.sh, --master_port for torchrun, MASTER_PORT for Slurm"
            ) from None
        raise TrainingError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} could not join the others "
            f"at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} within {timeout} s "
            f"({str(error).splitlines()[0]}); check that all of them were started, with the same "
            "address and a port that is free"
        ) from None


def _check_network() -> None:
    """Raise ConfigError for variables of the network that cannot be what was meant."""
    for name, (least, most) in _VARIABLES.items():
        value = os.environ[name]
        if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
            raise ConfigError(f"{name} is {value!r}; expected a whole number, {least} to {most}")
    known = [name for _, name in socket.if_nameindex()]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        value = os.environ.get(variable, "")
        # NCCL takes the beginnings of names, =exact names, and after ^ those to leave out.
        exact = variable.startswith("GLOO") or value.startswith("=")
        wanted = [] if value.startswith("^") else filter(None, value.lstrip("=").split(","))
        for one in wanted:
            if not any(name == one if exact else name.startswith(one) for name in known):
                raise ConfigError(
                    f"{variable} is {value!r}, but this machine has no network interface {one!r}; "
                    f"it has {known}. Correct it or unset it"
                )
    try:
        socket.getaddrinfo(os.environ["MASTER_ADDR"], None)
    except OSError as error:
        raise ConfigError(
            f"MASTER_ADDR is {os.environ['MASTER_ADDR']!r}, which this machine cannot resolve "
            f"({error}); set it to the name or address of the first machine"
        ) from None


def follow_launcher() -> None:
    """Have the kernel send SIGTERM to this process when the one that started it is gone (Linux).

    A launcher that is killed leaves no processes behind: training saves a checkpoint and ends.
    Only for launchers of one thread, since the end of the thread that started it counts.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def set_slurm_environment() -> None:
    """Set what torch reads of a process's place in the run; raises ConfigError outside of srun."""
    try:
        rank, world = os.environ["SLURM_PROCID"], os.environ["SLURM_NTASKS"]
        local, nodes = os.environ["SLURM_LOCALID"], os.environ["SLURM_NODELIST"]
    except KeyError as error:
        raise ConfigError(f"launcher is 'slurm', but {error} is not set; use srun") from None
    os.environ.update(RANK=rank, WORLD_SIZE=world, LOCAL_RANK=local)
    os.environ.setdefault("MASTER_ADDR", first_host(nodes))
    os.environ.setdefault("MASTER_PORT", "29500")


def tell_once(message: str, show: Callable[[str], None]) -> None:
    """Show the message of an error unless another process of the run has shown the same.

    Called just before a process ends. The first one to come waits a little for the others, and
    says its rank if not all of them meet the error.
    """
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = _message_store(rank)
        key = f"ddgan error {sha256(message.encode(errors='replace'))}"
        met = store.add(key, 1)
    # There is nobody to ask: the address is wrong, or the first process is gone.
    except (KeyError, ValueError, RuntimeError):
        show(message)
        if "RANK" in os.environ:
            show(f"(on process {os.environ['RANK']})")
        return
    if is_first := met == 1:
        show(message)
    deadline = time.monotonic() + _WAIT_FOR_OTHERS
    with suppress(RuntimeError):
        while met < world and time.monotonic() < deadline:
            time.sleep(0.05)
            met = store.add(key, 0)
    if met == world:
        time.sleep(0.2)  # The process that keeps the count stays until the others have read it.
    elif is_first:
        show(f"(on process {rank}; {met} of {world} processes say so)")


def _message_store(rank: int) -> dist.Store:
    """The store that the processes meet in: a connection of its own, which no group has to have."""
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank == 0 and not by_agent,
        timeout=datetime.timedelta(seconds=_WAIT_FOR_OTHERS),
        wait_for_workers=False,
        multi_tenant=True,
    )


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
def failing_together() -> Iterator[None]:
    """Raise on all processes what one raises in the block, so that none waits for it in vain.

    All processes have to come here. The others raise a UserError that quotes the first failure.
    """
    failure = None
    try:
        yield
    except Exception as error:
        if is_lost_process(error):
            raise
        failure = error
    if dist.is_initialized() and dist.get_world_size() > 1:
        quoted = failure and f"{type(failure).__name__}: {failure}"
        failures = [quoted] * dist.get_world_size()
        dist.all_gather_object(failures, quoted)
        if failure is None and any(failures):
            rank, text = next((rank, text) for rank, text in enumerate(failures) if text)
            raise UserError(f"process {rank} failed with {text}")
    if failure is not None:
        raise failure


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Turn errors of messages between processes into a LostProcessError that a person can read."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise LostProcessError(
            f"process {dist.get_rank()} has lost another process of the run, which ended or hangs: "
            "look for the first error in the logs of the others. Start the run again with --resume "
            f"({str(error).splitlines()[0]})"
        ) from error


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list such as ``gpu[003-007,9],login1``."""
    prefix, bracket, rest = nodes.partition("[")
    if "," in prefix or not bracket:
        return nodes.split(",")[0]
    number = rest.split("]")[0].split(",")[0].split("-")[0]
    return prefix + number + rest.partition("]")[2].split(",")[0]

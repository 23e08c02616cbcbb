"""Prints what is built, for which architectures, and what will be used: ``python -m ddgan.ops``."""

import torch

from ddgan.ops import library
from ddgan.ops.selection import current_backend


def _cuda_state() -> str:
    if not torch.cuda.is_available():
        return f"no device (PyTorch {torch.__version__})"
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, architecture {major}.{minor}"


def _choice(device: str) -> str:
    wish = current_backend()
    if wish not in ("auto", device):
        return "the PyTorch reference" if wish == "torch" else "an error"
    if not library.built_for(device):
        return "the PyTorch reference"
    return f"the compiled {device} operators"


def report() -> str:
    """Return the report as text."""
    reason = library.load()
    lines = [f"operators  {reason}" if reason else f"operators  {library.path()}"]
    if reason is None:
        built = [device for device in ("cpu", "cuda") if library.built_for(device)]
        lines.append(f"built for  {', '.join(built)}")
        lines += [f"built with {name} {value}" for name, value in library.build_info().items()]
        lines.append(f"cpu        runs the {library.cpu_capability()} kernels")
    lines.append(f"cuda       {_cuda_state()}")
    lines.append(f"backend    {current_backend()} (DDGAN_OPS, or ddgan.ops.backend())")
    lines += [f"on {device:8}{_choice(device)}" for device in ("cpu", "cuda")]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())

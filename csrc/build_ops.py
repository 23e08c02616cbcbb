"""Builds the operators: plans the compiler calls and runs them, with ninja if it is installed.

One library, ``ddgan/ops/_ops.abi3.so``, holds the CPU and, if asked for, the CUDA kernels. It uses
only LibTorch's stable ABI, so a build serves every PyTorch from 2.10 on, with CUDA or without.
torch.utils.cpp_extension cannot build it: with a CPU build of PyTorch it finds no toolkit, and its
CUDA libraries need libtorch_cuda. A second, small pybind11 module records how it was built.

Environment: DDGAN_CUDA=0|1 forces CUDA off or on; CUDA_HOME points at the toolkit;
TORCH_CUDA_ARCH_LIST chooses architectures; CXX chooses the C++ compiler; MAX_JOBS limits jobs.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

CSRC = Path(__file__).parent
ABI = "0x020a000000000000"  # the stable ABI of PyTorch 2.10
KNOWN_ARCHITECTURES = ("7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
CUDA_SOURCES = ("cuda/norm.cu", "cuda/fir.cu", "cuda/bias_act.cu")  # the slowest first
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden"]
KERNEL_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]


class BuildError(Exception):
    """The operators cannot be built here; the message says why and what to do."""


@dataclass
class Plan:
    """Everything that one build needs to know."""

    cxx: list[str]
    torch: Path
    nvcc: Path | None = None
    architectures: list[str] = field(default_factory=list)
    info: dict[str, str] = field(default_factory=dict)


def run(command: list[str]) -> str:
    """Run a tool and return what it printed; raise BuildError with its output if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"{shlex.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def find_compiler() -> list[str]:
    """The C++ compiler's command; g++ or clang++ are needed for their vector types."""
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(command[0]) is None:
        raise BuildError(f"no C++ compiler ({command[0]}); install g++ 10 or newer, or set CXX")
    return command


def find_torch() -> Path:
    """The directory of a PyTorch whose stable ABI is new enough."""
    try:
        import torch
    except ImportError as error:
        raise BuildError(
            f"PyTorch cannot be imported ({error}); install it first and pass --no-build-isolation"
        ) from error
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < (2, 10):
        raise BuildError(f"PyTorch {torch.__version__} has no stable ABI; 2.10 or newer is needed")
    return Path(torch.__file__).parent


def find_nvcc() -> Path | None:
    """nvcc of CUDA_HOME, of the PATH or of /usr/local/cuda; None without a toolkit."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [Path(home, "bin/nvcc") for home in homes if home]
    on_path = shutil.which("nvcc")
    places += [Path(on_path)] if on_path else []
    places.append(Path("/usr/local/cuda/bin/nvcc"))
    return next((place for place in places if place.exists()), None)


def wants_cuda(nvcc: Path | None) -> bool:
    """Decide whether to build for CUDA: DDGAN_CUDA, else a toolkit and a CUDA build of PyTorch."""
    wish = os.environ.get("DDGAN_CUDA", "")
    if wish not in ("", "0", "1"):
        raise BuildError(f"DDGAN_CUDA is {wish!r}; expected 0, 1 or nothing")
    if wish == "1" and nvcc is None:
        raise BuildError("DDGAN_CUDA=1 but no nvcc; put it on the PATH or set CUDA_HOME")
    if wish:
        return wish == "1"
    import torch

    return nvcc is not None and torch.version.cuda is not None


def toolkit_version(nvcc: Path) -> tuple[int, int]:
    """The CUDA version of a toolkit; raise BuildError if it does not suit PyTorch's."""
    import torch

    found = re.search(r"release (\d+)\.(\d+)", run([str(nvcc), "--version"]))
    if found is None:
        raise BuildError(f"{nvcc} --version shows no release number")
    version = (int(found[1]), int(found[2]))
    if version < (11, 8):
        raise BuildError(f"CUDA {found[1]}.{found[2]} ({nvcc}) is too old; 11.8 or newer is needed")
    used = torch.version.cuda
    if used is not None and int(used.split(".")[0]) != version[0]:
        raise BuildError(
            f"nvcc is CUDA {found[1]}.{found[2]} ({nvcc}) but PyTorch uses CUDA {used}; set "
            f"CUDA_HOME to a toolkit {used.split('.')[0]}.x or DDGAN_CUDA=0"
        )
    return version


def choose_architectures(nvcc: Path) -> list[str]:
    """The architectures to compile, as ``8.0`` or, with PTX, ``9.0+PTX``."""
    known = set(re.findall(r"compute_(\d+)\b", run([str(nvcc), "--list-gpu-arch"])))
    wish = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    listed = wish or list(KNOWN_ARCHITECTURES)
    kept = [a for a in listed if re.sub(r"[.a]|\+PTX", "", a) in known]
    dropped = [a for a in listed if a not in kept]
    if dropped:
        print(f"ddgan: {nvcc} does not compile for {', '.join(dropped)}: left out")
    if not kept:
        raise BuildError(f"{nvcc} compiles for none of {', '.join(listed)}")
    if not wish:
        kept[-1] += "+PTX"
    return kept


def gencode(architectures: list[str]) -> list[str]:
    """nvcc's flags for a list of architectures."""
    flags = []
    for architecture in architectures:
        number = architecture.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if architecture.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def make_plan() -> Plan:
    """Find the tools; raise BuildError where one is missing or does not fit."""
    import torch

    plan = Plan(find_compiler(), find_torch())
    plan.info["compiler"] = run([*plan.cxx, "--version"]).splitlines()[0]
    plan.info["torch"] = torch.__version__
    nvcc = find_nvcc()
    if wants_cuda(nvcc):
        assert nvcc is not None
        version = toolkit_version(nvcc)
        plan.nvcc = nvcc
        plan.architectures = choose_architectures(nvcc)
        plan.info["cuda"] = f"{version[0]}.{version[1]}"
        plan.info["architectures"] = " ".join(plan.architectures)
    return plan


def compile_commands(plan: Plan, out: Path) -> dict[Path, list[str]]:
    """The compiler call that makes each object file."""
    torch_flags = [f"-DTORCH_TARGET_VERSION={ABI}", f"-I{plan.torch / 'include'}"]
    depend = ["-MMD", "-MF", "{object}.d"]
    commands: dict[Path, list[str]] = {}

    def add(source: str, command: list[str]) -> None:
        target = out / (source.replace("/", "_") + ".o")
        filled = [part.replace("{object}", str(target)) for part in command]
        commands[target] = [*filled, "-c", str(CSRC / source), "-o", str(target)]

    for name in ("baseline", "avx2", "avx512"):
        # Few processors are left that run the baseline: its build time is not worth -O3.
        level = ["-O1"] if name == "baseline" else []
        add(f"cpu/kernels_{name}.cpp", [*plan.cxx, *FLAGS, *KERNEL_FLAGS, *level, *depend])
    add("cpu/dispatch.cpp", [*plan.cxx, *FLAGS, *depend])
    with_cuda = []
    if plan.nvcc:
        with_cuda = ["-DDDGAN_WITH_CUDA"]
        flags = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "--threads=0"]
        for name in CUDA_SOURCES:
            add(name, [str(plan.nvcc), *flags, *gencode(plan.architectures), *depend])
    binding = ["-O2" if flag == "-O3" else flag for flag in FLAGS]
    add("bindings.cpp", [*plan.cxx, *binding, *torch_flags, *with_cuda, *depend])
    return commands


def runtime_folder(nvcc: Path) -> Path:
    """The folder of the toolkit's libcudart_static.a: lib64, or lib in those of pip and conda."""
    # nvcc on the PATH may be a wrapper script; ask it where its toolkit is.
    dry_run = [str(nvcc), "--dryrun", "-c", "x.cu"]
    shown = subprocess.run(dry_run, capture_output=True, text=True, check=False).stderr
    found = re.search(r"TOP=(\S+)", shown)
    root = Path(found[1]) if found else nvcc.resolve().parent.parent
    # Conda has the compiler in <prefix>/bin and, by its version, libraries in one of the last two.
    folders = [root / "lib64", root / "lib", *sorted(root.glob("targets/*/lib"))]
    for folder in folders:
        if (folder / "libcudart_static.a").exists():
            return folder
    raise BuildError(
        f"the toolkit of {nvcc} has no libcudart_static.a in {', '.join(map(str, folders))}; "
        "install its runtime (pip: nvidia-cuda-runtime, conda: cuda-cudart-static) or set CUDA_HOME"
    )


def link_command(plan: Plan, objects: list[Path], target: Path) -> list[str]:
    """The linker call for the operators' library."""
    command = [*plan.cxx, "-shared", "-o", str(target), *map(str, objects)]
    command += [f"-L{plan.torch / 'lib'}", "-ltorch_cpu", "-ltorch"]
    if plan.nvcc:
        command += [f"-L{runtime_folder(plan.nvcc)}", "-lcudart_static", "-ldl", "-lrt"]
        command += ["-lpthread"]
    return command


def ninja_file(commands: dict[Path, list[str]], link: list[str], target: Path) -> str:
    """A build.ninja for the compile commands and the final link."""

    def escape(text: object) -> str:
        return str(text).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    lines = ["rule run", "  command = $cmd", "  depfile = $dep", "  deps = gcc"]
    lines += ["rule link", "  command = $cmd"]
    for output, command in commands.items():
        source = command[command.index("-c") + 1]
        lines += [f"build {escape(output)}: run {escape(source)}"]
        lines += [f"  cmd = {shlex.join(command)}", f"  dep = {output}.d"]
    lines += [f"build {escape(target)}: link {' '.join(map(escape, commands))}"]
    lines += [f"  cmd = {shlex.join(link)}"]
    return "\n".join(lines) + "\n"


def run_all(commands: dict[Path, list[str]], link: list[str], target: Path, out: Path) -> None:
    """Compile and link in parallel; with ninja, only what changed."""
    jobs = int(os.environ.get("MAX_JOBS", 0)) or os.cpu_count() or 1
    if shutil.which("ninja"):
        (out / "build.ninja").write_text(ninja_file(commands, link, target))
        run(["ninja", "-C", str(out), "-j", str(jobs)])
        return
    print("ddgan: ninja is missing, so every file is compiled again (pip install ninja)")
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, commands.values()))
    run(link)


def build_info_module(plan: Plan, target: Path) -> None:
    """Build the pybind11 module that tells how the operators were built, if pybind11 is there."""
    try:
        import pybind11
    except ImportError:
        print("ddgan: pybind11 is missing, so `python -m ddgan.ops` cannot tell how it was built")
        return
    pairs = ",".join(f"{{{json.dumps(k)},{json.dumps(v)}}}" for k, v in plan.info.items())
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-shared", *includes]
    source = [f"-DDDGAN_BUILD_INFO={pairs}", str(CSRC / "build_info.cpp"), "-o", str(target)]
    run([*plan.cxx, *flags, *source])


class BuildOps(build_ext):
    """``build_ext`` that never fails an installation: without operators the reference runs.

    With DDGAN_CUDA=1 a failure is an error, since somebody asked.
    """

    def build_extension(self, ext: Extension) -> None:
        """Build the library and the build-info module next to each other."""
        target = Path(self.get_ext_fullpath(ext.name)).with_name("_ops.abi3.so").resolve()
        out = Path(self.build_temp, "ops").resolve()
        out.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            plan = make_plan()
            commands = compile_commands(plan, out)
            target.unlink(missing_ok=True)
            run_all(commands, link_command(plan, list(commands), target), target, out)
            suffix = sysconfig.get_config_var("EXT_SUFFIX")
            build_info_module(plan, target.with_name(f"_build_info{suffix}"))
        except BuildError as error:
            if os.environ.get("DDGAN_CUDA") == "1":
                sys.exit(f"ddgan: {error}")
            print(f"ddgan: the compiled operators were not built; PyTorch's run instead. {error}")
            return
        print(f"ddgan: built {target.name} for cpu {plan.info.get('architectures', '')}")

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library without the interpreter's tag: it does not use Python's API."""
        return str(Path(*fullname.split("."))) + ".abi3.so"

    def copy_extensions_to_source(self) -> None:
        """Copy the libraries next to the package's sources, for ``--inplace``."""
        built = Path(self.build_lib, "ddgan/ops")
        for library in built.glob("_*.so"):
            # Replaced in one step: a process that runs the old library keeps it.
            fresh = Path("ddgan/ops", library.name + ".new")
            shutil.copy2(library, fresh)
            fresh.replace(fresh.with_suffix(""))


def extension() -> Extension:
    """The extension for ``setup(ext_modules=...)``; its sources go into the sdist."""
    files = sorted(p for p in CSRC.rglob("*") if p.suffix in {".cpp", ".h", ".inl", ".cu", ".cuh"})
    relative = [str(path.relative_to(CSRC.parent)) for path in [*files, CSRC / "build_ops.py"]]
    sources = [name for name in relative if name.endswith(".cpp")]
    return Extension("ddgan.ops._ops", sources, depends=relative, optional=True)

"""A model as one graph with its noise as inputs: ONNX, torch.export and AOTInductor files.

``SampleNoise`` is a function of (seed, index, stream). A sampler whose draws become inputs is a
pure function of tensors, so an exported file can be compared with the model on any sample.
"""

import copy
import importlib
import io
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import ddgan
from ddgan.diffusion import SampleNoise
from ddgan.errors import UserError
from ddgan.models.base import GenerativeModel
from ddgan.networks.node_mapping import ADAPTIVE_METHODS, NeuralODEMapping
from ddgan.ops import backend
from ddgan.utils.files import file_sha256, sha256, write_atomically

FORMAT = "ddgan-export-1"
SUFFIXES = (".onnx", ".pt2", ".so")
PARTS = ("sampler", "generator")
CHECKED_BATCHES = (1, 3, 16)
TOLERANCE = 1e-5

# An input as the JSON file describes it.
Input = dict[str, Any]
Inputs = Sequence[Input]


# The graph.


class RecordedNoise(SampleNoise):
    """``SampleNoise`` that lists what was drawn as ``inputs``."""

    def __init__(self, seed: int, indices: Tensor):
        super().__init__(seed, indices)
        self.inputs: list[Input] = []

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        """As ``SampleNoise.normal``."""
        self.inputs.append(_normal_input(f"noise_{stream}", shape, stream))
        return super().normal(stream, shape)

    def normals(self, stream: int, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """As ``SampleNoise.normals``."""
        offset = 0
        for number, shape in enumerate(shapes):
            self.inputs.append(_normal_input(f"noise_{stream}_{number}", shape, stream, offset))
            offset += math.prod(shape)
        return SampleNoise(self.seed, self.indices).normals(stream, shapes)


class GivenNoise:
    """Stands for ``SampleNoise`` in a graph: draws are the inputs of the graph, by name."""

    def __init__(self, values: Mapping[str, Tensor]):
        self.values = values

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        """The input of one stream."""
        return self.values[f"noise_{stream}"]

    def normals(self, stream: int, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """The inputs that share one stream."""
        return [self.values[f"noise_{stream}_{number}"] for number in range(len(shapes))]


class Sampler(nn.Module):
    """``model.draw`` as a function of its noise."""

    def __init__(self, model: GenerativeModel, names: Sequence[str]):
        super().__init__()
        self.generator = model.generator_ema
        self.names = names
        # Outside the module tree: a graph holds all weights of its module, used or not.
        self._model = (model,)

    def forward(self, *inputs: Tensor) -> Tensor:
        """x_0 (B, …) from the noise, in the order of ``names``."""
        noise = GivenNoise(dict(zip(self.names, inputs, strict=True)))
        return self._model[0].draw(noise, self.generator)  # type: ignore[arg-type]


def module_of(model: GenerativeModel, part: str, inputs: Inputs) -> nn.Module:
    """The module to export, which takes ``inputs`` in order; a GAN's generator is its sampler."""
    if part == "generator" and hasattr(model, "diffusion"):
        return model.generator_ema
    return Sampler(model, [entry["name"] for entry in inputs]).eval()


@torch.no_grad()
def list_inputs(model: GenerativeModel, part: str) -> list[Input]:
    """The graph's inputs in order: name, shape, dtype, and where the values come from."""
    if part == "sampler" or not hasattr(model, "diffusion"):
        noise = RecordedNoise(0, torch.zeros(1, dtype=torch.int64, device=model.device))
        model.draw(noise, model.generator_ema)
        return noise.inputs
    last, dim = model.diffusion.num_steps - 1, model.generator.latent_dim
    inputs = [
        _normal_input("x_t", model.data_shape, 0),
        {"name": "t", "shape": ["batch"], "dtype": "int64", "values": "t - 1", "range": [0, last]},
    ]
    return inputs + ([_normal_input("z", (dim,), 1)] if dim else [])


def _normal_input(name: str, shape: tuple[int, ...], stream: int, offset: int = 0) -> Input:
    where = {"values": "standard normal", "stream": stream, "offset": offset}
    return {"name": name, "shape": ["batch", *shape], "dtype": "float32", **where}


def draw_inputs(inputs: Inputs, seed: int, indices: Tensor) -> dict[str, Tensor]:
    """The values of described inputs for the samples of a seed; times are dealt out in turns."""
    noise, values = SampleNoise(seed, indices), {}
    for entry in inputs:
        if "range" in entry:
            values[entry["name"]] = indices % (entry["range"][1] + 1)
            continue
        shape, offset = entry["shape"][1:], entry["offset"]
        flat = noise.normal(entry["stream"], (offset + math.prod(shape),))
        values[entry["name"]] = flat[:, offset:].reshape(len(noise), *shape)
    return values


@torch.no_grad()
def trace(model: GenerativeModel, part: str, inputs: Inputs) -> torch.export.ExportedProgram:
    """The graph of ``part``, "sampler" or "generator", for any batch size, in plain PyTorch.

    Raises UserError for a model that a graph cannot hold.
    """
    for child in model.generator_ema.modules():
        if isinstance(child, NeuralODEMapping) and child.solver in ADAPTIVE_METHODS:
            raise UserError(
                f"solver={child.solver!r} chooses its steps by values, which a graph cannot do; "
                "use euler, midpoint or rk4, which changes the samples a little: --cfg-options "
                "model.generator.mapping.solver=rk4"
            )
    # Two samples, since torch.export takes a batch of one for a constant.
    values = draw_inputs(inputs, 0, torch.arange(2, device=model.device))
    batch = torch.export.Dim("batch", min=1)
    module, shapes = module_of(model, part, inputs), tuple([{0: batch} for _ in values])
    try:
        with backend("torch"):
            return torch.export.export(
                module,
                tuple(values.values()),
                dynamic_shapes=(shapes,) if isinstance(module, Sampler) else shapes,
            )
    except Exception as error:  # torch.export raises nearly anything
        raise UserError(
            f"{type(model).__name__} with {type(model.generator).__name__} cannot be exported "
            f"({type(error).__name__}: {_first_line(error)}); its code may not branch on values "
            "or on the batch size"
        ) from error


# Files.


def check_suffix(path: Path) -> str:
    """The ending of a file to export; raises UserError for an unknown one."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a name that ends with {', '.join(SUFFIXES)}")
    return path.suffix


def save(path: Path, program: torch.export.ExportedProgram, names: Sequence[str]) -> None:
    """Write a graph in the form of the file's ending; raises UserError where that cannot be."""
    buffer = io.BytesIO()
    suffix = check_suffix(path)
    if suffix == ".onnx":
        buffer.write(_onnx(program, names))
    elif suffix == ".pt2":
        torch.export.save(program, buffer)
    else:
        try:
            torch._inductor.aoti_compile_and_package(program, package_path=buffer)
        except Exception as error:  # the compiler is missing, or fails
            raise UserError(
                f"{path} cannot be compiled ({_first_line(error)}); install a C++ compiler, or "
                "write .pt2"
            ) from error
    write_atomically(path, buffer.getvalue())


def _onnx(program: torch.export.ExportedProgram, names: Sequence[str]) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about itself
        graph: Any = torch.onnx.export(
            program,
            input_names=names,
            output_names=["x0"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    try:
        return graph.model_proto.SerializeToString()
    except ValueError as error:
        raise UserError(f"an ONNX file holds at most 2 GiB ({error}); use .pt2 or .so") from None


def _require(*packages: str) -> None:
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"ONNX files need {name}, which cannot be imported ({error}); "
                "pip install onnx onnxscript onnxruntime"
            ) from None


def load(path: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """An exported file as a function of its inputs by name, in their order.

    Raises UserError for a damaged file.
    """
    suffix = check_suffix(path)
    if suffix == ".onnx":
        _require("onnxruntime")
    try:
        if suffix == ".onnx":
            return _load_onnx(path)
        # As a stream, since torch wants its packages to be named .pt2.
        content = io.BytesIO(path.read_bytes())
        if suffix == ".so":
            program: Any = torch._inductor.aoti_load_package(content)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch's, about itself
                program = torch.export.load(content).module()
    except Exception as error:  # each reader has its own
        raise UserError(f"{path} cannot be loaded: {_first_line(error)}; export again") from error
    return lambda values: program(*values.values())


def _load_onnx(path: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(values: Mapping[str, Tensor]) -> Tensor:
        arrays = {name: value.cpu().numpy() for name, value in values.items()}
        return torch.from_numpy(session.run(None, arrays)[0])

    return run


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# The description.


def describe(model: GenerativeModel, path: Path, part: str, inputs: Inputs) -> dict[str, Any]:
    """What another program needs to draw the samples of (seed, index), and what ``path`` holds."""
    settings = ("num_evaluations", "times", "eta", "clip", "truncation")
    found = {name: getattr(model, name) for name in settings if hasattr(model, name)}
    if hasattr(model, "diffusion"):
        tables = {name: table.tolist() for name, table in model.diffusion.named_buffers()}
        found |= {"num_steps": model.diffusion.num_steps, **tables}
    scale = getattr(model.data_preprocessor, "scale", None)
    images = "uint8 = clip(round((x0 + 1) * 127.5), 0, 255), as (C, H, W)"
    return {
        "format": FORMAT,
        "model": type(model).__name__,
        "part": part,
        "file_sha256": file_sha256(path),
        "weights_sha256": weights_sha256(model),
        "noise": "Philox-4x32-10 of (seed, index, stream), see docs/export.md",
        "inputs": inputs,
        "output": {"name": "x0", "shape": ["batch", *model.data_shape], "dtype": "float32"},
        "to_data": images if scale is None else f"points = x0 / {scale}",
        "coefficients": found,
        "versions": {"ddgan": ddgan.__version__, "torch": torch.__version__},
    }


def weights_sha256(model: GenerativeModel) -> str:
    """The digest of the averaged generator: the names and bytes of its tensors, by name."""
    tensors = sorted(model.generator_ema.state_dict().items())
    return sha256(*(x for n, t in tensors for x in (n.encode(), t.cpu().numpy().tobytes())))


def description_path(path: Path) -> Path:
    """The JSON file next to an exported file."""
    return path.with_name(f"{path.name}.json")


def export(model: GenerativeModel, path: Path, part: str = "sampler") -> None:
    """Write a part of the model, and the JSON next to it. Raises UserError if it cannot be."""
    if check_suffix(path) == ".onnx":  # before the minutes of tracing
        _require("onnx", "onnxscript")
    inputs = list_inputs(model, part)
    names = [entry["name"] for entry in inputs]
    save(path, trace(model, part, inputs), names)
    text = json.dumps(describe(model, path, part, inputs), indent=1)
    write_atomically(description_path(path), text + "\n")


def read_description(path: Path) -> dict[str, Any]:
    """The JSON next to ``path``; raises UserError unless both are there and belong together."""
    description = description_path(path)
    try:
        found = json.loads(description.read_text(encoding="utf-8"))
        fits = found["format"] == FORMAT and found["file_sha256"] == file_sha256(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} or {description} cannot be read ({error}); export again") from None
    if not fits:
        raise UserError(f"{description} describes another file than {path} is now; export again")
    return found


# The proof.


class Difference(NamedTuple):
    """How far two computations of the same samples are apart."""

    name: str
    largest: float
    mean: float
    # Of images in uint8: the largest difference, and the share of values that differ.
    levels: int
    changed: float


def difference(model: GenerativeModel, name: str, found: Tensor, expected: Tensor) -> Difference:
    """Compare float samples, and the images that they become."""
    distance = (found.double() - expected.double()).abs()
    levels = torch.zeros(1)
    if model.empty_output().dtype == torch.uint8:
        levels = (model.to_output(found).int() - model.to_output(expected).int()).abs()
    changed = (levels > 0).double().mean().item()
    return Difference(
        name, distance.max().item(), distance.mean().item(), int(levels.max()), changed
    )


@torch.no_grad()
def check(model: GenerativeModel, path: Path, seed: int = 0) -> list[Difference]:
    """Compare an exported file with the model in plain PyTorch, in batches of 1, 3 and 16.

    The last row compares the file with the compiled operators. Raises UserError for a file of
    other weights or settings.
    """
    description = read_description(path)
    part = description["part"]
    own = json.loads(json.dumps(describe(model, path, part, list_inputs(model, part))))
    for key in ("model", "weights_sha256", "inputs", "coefficients"):
        if own[key] != description[key]:
            raise UserError(
                f"{path} has other {key} than the checkpoint gives; take the checkpoint that it "
                "was exported from, with the same --cfg-options, or export again"
            )
    program, rows = load(path), []
    module = module_of(model, part, description["inputs"])
    for batch in CHECKED_BATCHES:
        indices = torch.arange(batch, device=model.device)
        values = draw_inputs(description["inputs"], seed, indices)
        found = program(values)
        with backend("torch"):
            rows.append(difference(model, f"batch {batch}", found, module(*values.values())))
    rows.append(difference(model, "compiled operators", found, module(*values.values())))
    return rows


@torch.no_grad()
def precision(model: GenerativeModel, seed: int = 0) -> list[Difference]:
    """What half precision changes in 16 samples: of the weights alone, or of the products too."""
    inputs, indices = list_inputs(model, "sampler"), torch.arange(CHECKED_BATCHES[-1])
    values = tuple(draw_inputs(inputs, seed, indices.to(model.device)).values())
    module = module_of(model, "sampler", inputs)
    expected, rows = module(*values), []
    for dtype in (torch.float16, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        with torch.autocast(model.device.type, dtype):
            found = module(*values).float()
        rows.append(difference(model, f"{kind} autocast", found, expected))
        rounded = module_of(model, "sampler", inputs)
        rounded.generator = copy.deepcopy(model.generator_ema).to(dtype).float()
        rows.append(difference(model, f"{kind} weights", rounded(*values), expected))
    return rows

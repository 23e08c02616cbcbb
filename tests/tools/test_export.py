"""Exported files against the model: every form, any batch size, and noise drawn without torch."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from ddgan import export
from ddgan.apis import load_model
from ddgan.diffusion import SampleNoise
from ddgan.engine import load_config, save_release
from ddgan.errors import UserError
from ddgan.registry import MODELS

IMAGE = (3, 8, 8)
MLP = {"type": "MLPGenerator", "data_shape": (2,), "latent_dim": 2, "hidden_dim": 16}
NCSNPP = {
    "type": "NCSNpp",
    "image_size": 8,
    "base_channels": 8,
    "channel_multipliers": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (),
    "latent_dim": 4,
    "embedding_dim": 8,
    "num_mapping_layers": 1,
}
STYLEGAN2 = {
    "type": "StyleGAN2Generator",
    "image_size": 8,
    "latent_dim": 8,
    "w_dim": 8,
    "num_mapping_layers": 1,
    "channel_base": 64,
    "max_channels": 8,
}
SPIGAN = {
    "type": "SPIGANGenerator",
    "mapping": {"type": "NeuralODEMapping", "dim": 8, "hidden_dim": 8, "num_steps": 1},
    "synthesis": {**STYLEGAN2, "num_mapping_layers": 0},
}
DISCRIMINATOR = {"type": "MLPDiscriminator", "num_steps": 2, "data_shape": (2,), "hidden_dim": 4}
POINTS = {"data_preprocessor": {"type": "PointPreprocessor", "scale": 0.5}}
CONFIGS = {
    "ddgan_mlp": {
        "type": "DDGAN",
        "generator": MLP,
        "discriminator": DISCRIMINATOR,
        "diffusion": {"num_steps": 4},
        **POINTS,
    },
    "ddgan_ncsnpp": {
        "type": "DDGAN",
        "generator": NCSNPP,
        "discriminator": DISCRIMINATOR,
        "diffusion": {"num_steps": 2},
    },
    "spigan": {"type": "SPIGAN", "generator": SPIGAN, "discriminator": DISCRIMINATOR},
    "stylegan2": {
        "type": "StyleGAN2",
        "generator": STYLEGAN2,
        "discriminator": DISCRIMINATOR,
        "truncation": 0.7,
    },
    "ddim": {
        "type": "DDPM",
        "generator": {**MLP, "data_shape": IMAGE, "latent_dim": 0},
        "diffusion": {"num_steps": 20, "schedule": "linear", "beta_max": 4.0},
        "sampler": "ddim",
        "sampling_steps": 2,
        "eta": 0.5,
        "clip": True,
    },
    "gan": {
        "type": "GAN",
        "generator": {"type": "MLPLatentGenerator", "hidden_dim": 8},
        "discriminator": DISCRIMINATOR,
        **POINTS,
    },
}


@pytest.fixture(scope="module")
def onnx():
    """ONNX and its runtime; without them a test is skipped, in continuous integration it fails."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"{error}: pip install onnx onnxscript onnxruntime"
        )
    return onnx


def build(name, **changes):
    """A model with weights that make every part of it matter."""
    torch.manual_seed(0)
    model = MODELS.build({**CONFIGS[name], **changes}).eval().requires_grad_(False)
    for tensor in model.generator_ema.parameters():
        if tensor.abs().max() < 1e-3:  # layers that start at zero
            tensor.normal_(0, 0.2)
    return model


def assert_equal(rows):
    assert [row.name for row in rows] == ["batch 1", "batch 3", "batch 16", "compiled operators"]
    for row in rows:
        assert row.levels <= 1, row
    for row in rows[:-1]:  # the compiled operators round otherwise
        assert row.largest <= export.TOLERANCE, row


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *((name, "sampler") for name in CONFIGS),
        *((name, "generator") for name in ("ddgan_ncsnpp", "ddim", "gan")),
    ],
)
def test_graphs_equal_the_model_in_any_batch(tmp_path, name, part):
    model = build(name)
    path = tmp_path / "model.pt2"
    export.export(model, path, part)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt2", "model.pt2.json"]
    assert_equal(export.check(model, path, seed=3))


@pytest.mark.parametrize("name", CONFIGS)
def test_onnx_files_equal_the_model_in_any_batch(tmp_path, name, onnx):
    model = build(name)
    path = tmp_path / "model.onnx"
    export.export(model, path)
    assert_equal(export.check(model, path, seed=2**40))
    described = json.loads((tmp_path / "model.onnx.json").read_text())
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == [i["name"] for i in described["inputs"]]
    assert [o.name for o in graph.output] == ["x0"]


def test_the_onnx_generator_takes_a_time_per_sample(tmp_path, onnx):
    model = build("ddgan_ncsnpp")
    path = tmp_path / "generator.onnx"
    export.export(model, path, "generator")
    assert_equal(export.check(model, path))
    x_t, t, z = torch.randn(2, *IMAGE), torch.tensor([1, 0]), torch.randn(2, 4)
    found = export.load(path)({"x_t": x_t, "t": t, "z": z})
    for k in range(2):
        alone = model.generator_ema(x_t[k : k + 1], t[k : k + 1], z[k : k + 1])
        torch.testing.assert_close(found[k : k + 1], alone, rtol=0, atol=1e-5)


def test_a_compiled_package_equals_the_model(tmp_path):
    model = build("ddgan_mlp")
    export.export(model, tmp_path / "model.so")
    assert_equal(export.check(model, tmp_path / "model.so"))


def philox_normals(seed, index, stream, count):
    """Philox-4x32-10 and Box-Muller in NumPy, from the description in docs/export.md."""
    c = np.zeros(((count + 3) // 4, 4), np.uint64)
    c[:, 0], c[:, 1] = np.arange(len(c)), stream
    c[:, 2], c[:, 3] = index & 0xFFFFFFFF, index >> 32
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[:, 0] * np.uint64(0xD2511F53), c[:, 2] * np.uint64(0xCD9E8D57)
        c = np.stack(
            [
                (b >> np.uint64(32)) ^ c[:, 1] ^ np.uint64(k0),
                b & low,
                (a >> np.uint64(32)) ^ c[:, 3] ^ np.uint64(k1),
                a & low,
            ],
            1,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    u = (c.astype(np.float64) + 1) / 2**32
    radius, angle = np.sqrt(-2 * np.log(u[:, :2])), 2 * np.pi * u[:, 2:]
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return normals.reshape(-1)[:count].astype(np.float32)


@pytest.mark.parametrize("name", ["ddgan_mlp", "spigan"])
def test_another_program_draws_the_same_samples(tmp_path, name):
    """The JSON file is enough for the noise of sample (7, 11)."""
    model = build(name)
    path = tmp_path / "model.pt2"
    export.export(model, path)
    values = {}
    for entry in json.loads((tmp_path / "model.pt2.json").read_text())["inputs"]:
        shape, offset = entry["shape"][1:], entry["offset"]
        flat = philox_normals(7, 11, entry["stream"], offset + int(np.prod(shape)))
        values[entry["name"]] = torch.from_numpy(flat[offset:].reshape(1, *shape))
    x0 = torch.export.load(path).module()(*values.values()).numpy()
    expected = model.sample(1, seed=7, first_index=11).numpy()
    if name == "ddgan_mlp":
        np.testing.assert_allclose(x0 / 0.5, expected, rtol=0, atol=2e-5)
        return
    image = np.clip(np.round((x0 + 1) * 127.5), 0, 255)
    assert np.abs(image - expected).max() <= 1
    assert expected.std() > 10


def test_noise_is_listed_once_and_the_last_step_has_none():
    names = [entry["name"] for entry in export.list_inputs(build("ddgan_ncsnpp"), "sampler")]
    assert names == ["noise_0", "noise_4", "noise_5", "noise_2"]
    inputs = export.list_inputs(build("stylegan2"), "sampler")
    assert [(i["stream"], i["offset"]) for i in inputs] == [(0, 0), (0, 8), (0, 24), (0, 88)]
    drawn = export.draw_inputs(inputs, 1, torch.arange(2))
    flat = SampleNoise(1, torch.arange(2)).normal(0, (8 + 16 + 64 + 64,))
    torch.testing.assert_close(torch.cat([v.flatten(1) for v in drawn.values()], 1), flat)


def test_half_precision_is_measured():
    rows = export.precision(build("stylegan2"))
    largest = {row.name: row.largest for row in rows}
    assert 0 < largest["float16 weights"] < largest["bfloat16 weights"] < 0.5
    assert 0 < largest["float16 autocast"] < largest["bfloat16 autocast"] < 1


def test_what_cannot_be_exported_is_one_message(tmp_path):
    pytest.importorskip("torchdiffeq")
    mapping = {**SPIGAN["mapping"], "solver": "dopri5"}
    with pytest.raises(UserError, match=r"'dopri5'.*mapping\.solver=rk4"):
        export.export(build("spigan", generator={**SPIGAN, "mapping": mapping}), tmp_path / "a.pt2")

    class Branching(torch.nn.Module):
        latent_dim, data_shape = 2, (2,)

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        def forward(self, z):
            return z * self.weight if z.sum() > 0 else -z

    model = MODELS.build({**CONFIGS["gan"], "generator": Branching()}).eval()
    with pytest.raises(UserError, match=r"GAN with Branching cannot be exported.*branch") as caught:
        export.export(model, tmp_path / "a.pt2")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "points.safetensors"
    config = load_config(Path(__file__).parents[1] / "configs" / "points.py")
    state = MODELS.build(config.model).state_dict()
    averaged = {n: t for n, t in state.items() if n.startswith("generator_ema.")}
    save_release(path, averaged, config, {})
    return path


def test_the_tool_writes_and_checks(tmp_path, call_tool, release):
    out = tmp_path / "deep" / "mlp.pt2"
    status, output = call_tool("export", release, out)
    assert status == 0, output
    described = json.loads((tmp_path / "deep" / "mlp.pt2.json").read_text())
    assert (
        described["to_data"]
        == f"points = x0 / {load_model(release, 'cpu').data_preprocessor.scale}"
    )
    assert described["coefficients"]["num_steps"] == 4
    assert described["weights_sha256"] == export.weights_sha256(load_model(release, "cpu"))
    status, output = call_tool("export", release, out, "--check")
    assert status == 0, output
    for row in ("batch 16", "compiled operators", "bfloat16 weights", "float16 autocast"):
        assert row in output
    # Other settings, other bytes, no file.
    status, output = call_tool(
        "export", release, out, "--check", "--cfg-options", "model.diffusion.beta_max=5.0"
    )
    assert status == 1
    assert "coefficients" in output
    assert "--cfg-options" in output
    out.write_bytes(out.read_bytes()[:-9])
    status, output = call_tool("export", release, out, "--check")
    assert status == 1
    assert "describes another file" in output
    status, output = call_tool("export", release, tmp_path / "no.onnx", "--check")
    assert status == 1
    assert "export again" in output


def test_a_file_that_differs_is_an_error(tmp_path, call_tool, release, monkeypatch):
    out = tmp_path / "mlp.pt2"
    export.export(load_model(release, "cpu"), out)
    monkeypatch.setattr(export, "load", lambda path: lambda values: values["noise_0"])
    status, output = call_tool("export", release, out, "--check")
    assert status == 1
    assert "is not the model" in output


def test_an_unknown_ending_is_one_message(tmp_path, call_tool, release):
    status, output = call_tool("export", release, tmp_path / "mlp.tflite")
    assert status == 1
    assert ".onnx, .pt2, .so, .safetensors" in output
    assert len(output.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
    status, output = call_tool("export", release, tmp_path / "a.safetensors", "--check")
    assert status == 1
    assert "--check" in output


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    model, path = build("gan"), tmp_path / "model.pt2"
    export.export(model, path)
    before = path.read_bytes()

    def fails(program, buffer):
        buffer.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch.export, "save", fails)
    with pytest.raises(OSError, match="no space"):
        export.export(model, path)
    assert path.read_bytes() == before
    assert_equal(export.check(model, path))

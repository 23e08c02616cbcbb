import argparse
import json
import os
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ddgan.apis import load_model
from ddgan.errors import CheckpointError
from ddgan.networks import MLPDiscriminator, MLPGenerator, NCSNpp, TimeDependentDiscriminator
from ddgan.networks.official import (
    convert_discriminator,
    convert_generator,
    convert_model,
    discriminator_layout,
    generator_layout,
    read_official,
)

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "fixtures"
NUM_STEPS, BATCH, SIZE, LATENT = 4, 4, 16, 16


def official_shapes(name):
    return json.loads((DATA / "official_keys" / f"{name}.json").read_text())


def tiny_generator(**options):
    options = {
        "image_size": SIZE,
        "base_channels": 32,
        "channel_multipliers": (1, 2),
        "latent_dim": LATENT,
        "embedding_dim": 32,
        "num_mapping_layers": 2,
    } | options
    return NCSNpp(**options)


def tiny_discriminator(**options):
    options = {
        "stem_channels": 32,
        "blocks": ((32, False), (64, True), (128, True), (128, True)),
        "time_embedding_dim": 32,
    } | options
    return TimeDependentDiscriminator(**options)


def deterministic_weight(name, shape):
    n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) >= 2:
        n /= np.sqrt(n.size / shape[0])
    elif name.endswith(".style.bias"):
        n *= 0.1
        n[: len(n) // 2] += 1
    elif name.endswith(".weight"):
        n = 1 + 0.1 * n
    else:
        n *= 0.1
    return torch.from_numpy(n.astype(np.float32))


def official_state(network):
    """The weights of the tiny official "G" or "D" that the parity data belong to."""
    shapes = official_shapes("tiny16")[network]
    return OrderedDict((name, deterministic_weight(name, shape)) for name, shape in shapes.items())


@pytest.fixture(scope="module")
def generator():
    network = tiny_generator()
    network.load_state_dict(convert_generator(official_state("G"), network))
    return network.eval()


@pytest.fixture(scope="module")
def discriminator():
    network = tiny_discriminator()
    network.load_state_dict(convert_discriminator(official_state("D"), network))
    return network


@pytest.fixture(scope="module")
def parity():
    with np.load(DATA / "parity_tiny16.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1234)
    image = (BATCH, 3, SIZE, SIZE)

    def draw(*shape):
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    names = {"x0": image, "x_t": image, "x_prev": image, "z": (BATCH, LATENT)}
    drawn = {name: draw(*shape) for name, shape in names.items()}
    drawn["latents"] = [draw(BATCH, LATENT) for _ in range(NUM_STEPS)]
    drawn["noises"] = [draw(*image) for _ in range(NUM_STEPS)]
    drawn["t"] = torch.arange(BATCH) % NUM_STEPS
    return drawn


def assert_relative(actual, expected, tolerance=1e-5):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


def test_generator_reproduces_the_release(generator, inputs, parity):
    with torch.no_grad():
        out = generator(inputs["x_t"], inputs["t"], inputs["z"])
    assert_relative(out, parity["G"])


def test_discriminator_and_its_penalty_reproduce_the_release(discriminator, inputs, parity):
    x_prev = inputs["x_prev"].clone().requires_grad_()
    logits = discriminator(x_prev, inputs["t"], inputs["x_t"])
    assert_relative(logits.detach(), parity["D"])
    (gradient,) = torch.autograd.grad(logits.sum(), x_prev, create_graph=True)
    assert_relative(gradient.detach(), parity["dD_dx"])
    penalty = gradient.square().sum((1, 2, 3)).mean()
    assert_relative(penalty.detach(), parity["r1"])

    layout = discriminator_layout(discriminator)
    parameters = dict(discriminator.named_parameters())
    names = [str(name) for name in parity["r1_grad_names"]]
    wanted = [parameters[layout[name].key] for name in names]
    gradients = dict(zip(names, torch.autograd.grad(penalty, wanted), strict=True))
    assert_relative(gradients["start_conv.weight"], parity["r1_grad_start_conv"])
    assert_relative([gradients[name].norm().item() for name in names], parity["r1_grad_norms"])


def posterior_tables():
    """(c1, c2, standard deviation) of q(x_{t-1} | x_t, x_0) per step, in float64."""
    time = np.arange(NUM_STEPS + 1) / NUM_STEPS * (1 - 1e-3) + 1e-3
    alpha_bar = np.exp(-0.5 * time**2 * (20 - 0.1) - time * 0.1)
    alpha = alpha_bar[1:] / alpha_bar[:-1]
    alpha_bar = np.cumprod(alpha)
    previous = np.append(1.0, alpha_bar[:-1])
    c1 = (1 - alpha) * np.sqrt(previous) / (1 - alpha_bar)
    c2 = (1 - previous) * np.sqrt(alpha) / (1 - alpha_bar)
    return c1, c2, np.sqrt((1 - alpha) * (1 - previous) / (1 - alpha_bar))


def test_a_sampling_pass_reproduces_the_release(generator, inputs, parity):
    c1, c2, deviation = posterior_tables()
    x = inputs["x_t"]
    steps = zip(reversed(range(NUM_STEPS)), inputs["latents"], inputs["noises"], strict=True)
    with torch.no_grad():
        for i, z, noise in steps:
            x0 = generator(x, torch.full((BATCH,), i), z)
            x = c1[i] * x0 + c2[i] * x + deviation[i] * noise
    assert_relative(x, parity["sample"])


CELEBA = {"base_channels": 64, "channel_multipliers": (1, 1, 2, 2, 4, 4)}
LARGE_BLOCKS = ((256, True), *[(512, True)] * 5)
LAYOUTS = [
    ("cifar10_G", lambda: NCSNpp(32, num_mapping_layers=4)),
    ("cifar10_D", TimeDependentDiscriminator),
    ("celebahq256_G", lambda: NCSNpp(256, **CELEBA)),
    ("celebahq256_D", lambda: TimeDependentDiscriminator(blocks=LARGE_BLOCKS)),
]


def layout_of(network):
    return (generator_layout if isinstance(network, NCSNpp) else discriminator_layout)(network)


@pytest.mark.parametrize(("name", "build"), LAYOUTS, ids=[name for name, _ in LAYOUTS])
def test_layout_of_the_published_networks(name, build):
    with torch.device("meta"):
        network = build()
    ours = network.state_dict()
    layout = layout_of(network)
    shapes = {key: list(place.official_shape(ours[place.key])) for key, place in layout.items()}
    assert shapes == official_shapes(name)
    # The layout covers every row of every tensor once.
    for key, tensor in ours.items():
        ends = sorted((place.start, place.stop) for place in layout.values() if place.key == key)
        assert [start for start, _ in ends] == [0, *(stop for _, stop in ends[:-1])], key
        assert ends[-1][1] == len(tensor), key


@pytest.mark.parametrize("options", [{}, {"latent_dim": 0}], ids=str)
def test_every_tensor_of_other_networks_has_one_place(options):
    network = tiny_generator(**options)
    layout = generator_layout(network)
    ours = network.state_dict()
    elements = sum(np.prod(place.official_shape(ours[place.key])) for place in layout.values())
    assert elements == sum(tensor.numel() for tensor in ours.values())
    assert {place.key for place in layout.values()} == ours.keys()


def test_another_config_is_refused_with_the_first_difference():
    with pytest.raises(CheckpointError) as error:
        convert_generator(official_state("G"), tiny_generator(base_channels=16))
    assert "all_modules.0.weight is (128, 32) in the file but (64, 16)" in str(error.value)

    with pytest.raises(CheckpointError, match=r"z_transform\.7\.weight.* missing from the file"):
        convert_generator(official_state("G"), tiny_generator(num_mapping_layers=3))
    with pytest.raises(CheckpointError, match=r"final_conv\.weight.*not in the config"):
        convert_discriminator(official_state("D"), tiny_discriminator(head_conv=False))
    with pytest.raises(CheckpointError, match="MLPGenerator; expected NCSNpp"):
        convert_generator(official_state("G"), MLPGenerator(4))
    with pytest.raises(CheckpointError, match="MLPDiscriminator; expected"):
        convert_discriminator(official_state("D"), MLPDiscriminator(4))


def test_a_tensor_too_many_is_named():
    state = official_state("G") | {"all_modules.99.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"all_modules\.99\.weight in the file but not"):
        convert_generator(state, tiny_generator())


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = tiny_generator()
        self.discriminator = tiny_discriminator()
        self.generator_ema = tiny_generator()


def prefixed(state):
    return OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())


def training_state(ema=True):
    """What the release saves to go on training: content.pth."""
    raw = official_state("G")
    moments = {i: {"step": 7, "exp_avg": torch.zeros_like(w)} for i, w in enumerate(raw.values())}
    if ema:
        for i, weight in enumerate(raw.values()):
            moments[i]["ema"] = weight + 1
    return {
        "epoch": 3,
        "global_step": 585,
        "args": argparse.Namespace(dataset="cifar10", nz=16),
        "netG_dict": prefixed(raw),
        "optimizerG": {
            "state": moments,
            "param_groups": [{"lr": 1e-4, "params": list(range(len(raw)))}],
        },
        "schedulerG": {"T_max": 1200, "base_lrs": [1e-4]},
        "netD_dict": prefixed(official_state("D")),
        "optimizerD": {"state": {}, "param_groups": []},
        "schedulerD": {"T_max": 1200},
    }


@pytest.mark.parametrize("wrap", [OrderedDict, prefixed], ids=["bare", "module."])
def test_a_generator_file_fills_the_average(tmp_path, wrap, generator):
    path = tmp_path / "netG_1200.pth"
    torch.save(wrap(official_state("G")), path)
    file = read_official(path)
    assert file.info == {"source": "official DDGAN release, netG_1200.pth", "epoch": "1200"}
    state = convert_model(file, Model())
    assert {key.split(".")[0] for key in state} == {"generator_ema"}
    for key, tensor in generator.state_dict().items():
        assert torch.equal(state[f"generator_ema.{key}"], tensor)


def test_a_training_file_fills_all_networks(tmp_path, generator, discriminator):
    path = tmp_path / "content.pth"
    torch.save(training_state(), path)
    file = read_official(path)
    assert (file.info["epoch"], file.info["iteration"]) == ("3", "585")
    assert file.unused == [
        f"optimizerG ({len(official_state('G'))} tensors, EMA aside)",
        "optimizerD (0 tensors)",
        "schedulerG",
        "schedulerD",
        "args",
    ]
    model = Model()
    model.load_state_dict(convert_model(file, model))
    for key, tensor in generator.state_dict().items():
        assert torch.equal(model.generator.state_dict()[key], tensor)
        torch.testing.assert_close(model.generator_ema.state_dict()[key], tensor + 1)
    for key, tensor in discriminator.state_dict().items():
        assert torch.equal(model.discriminator.state_dict()[key], tensor)


def test_without_averaging_the_generator_itself_is_sampled_from(tmp_path):
    path = tmp_path / "content.pth"
    torch.save(training_state(ema=False), path)
    state = convert_model(read_official(path), Model())
    assert torch.equal(state["generator_ema.stem.weight"], state["generator.stem.weight"])


def test_an_incomplete_average_is_refused(tmp_path):
    path = tmp_path / "content.pth"
    content = training_state()
    del content["optimizerG"]["state"][5]["ema"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"averaged module\.all_modules\.2\.bias.* missing"):
        read_official(path)
    content["optimizerG"]["param_groups"][0]["params"].pop()
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="inconsistent"):
        read_official(path)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_does_not_run(tmp_path, legacy):
    marker, path = tmp_path / "ran", tmp_path / "netG_1.pth"
    content = official_state("G") | {"args": Malicious(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        CheckpointError, match=r"was refused.*it names \S+, and only tensors"
    ) as caught:
        read_official(path)
    assert not marker.exists()
    # torch advises to load the file unsafely.
    assert not any(word in str(caught.value) for word in ("weights_only", "trust", "allowlist"))


@pytest.mark.parametrize(
    "start", ["<!DOCTYPE html>", "\n<html lang=en>", "\ufeff<HTML>", "<?xml?>"]
)
def test_a_web_page_is_recognised(tmp_path, start):
    path = tmp_path / "netG_1.pth"
    path.write_text(start + "<title>Google Drive - Virus scan warning</title>", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"netG_1\.pth is a web page.*browser"):
        read_official(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["netG_dict", "netD_dict"])
def test_weights_that_are_not_finite_are_refused(tmp_path, key, value):
    content = training_state()
    name, tensor = list(content[key].items())[-1]
    content[key][name] = tensor.clone()
    content[key][name].view(-1)[0] = value
    torch.save(content, tmp_path / "content.pth")
    with pytest.raises(
        CheckpointError, match=f"content.pth: {name} has values that are not finite"
    ):
        read_official(tmp_path / "content.pth")
    torch.save(content[key], tmp_path / "netG_1.pth")
    with pytest.raises(CheckpointError, match=f"netG_1.pth: {name} has values that are not finite"):
        read_official(tmp_path / "netG_1.pth")


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist"):
        read_official(tmp_path / "nowhere.pth")
    path = tmp_path / "netG_1.pth"
    torch.save(official_state("G"), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>quota exceeded</html>"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"netG_1\.pth"):
            read_official(path)
    for other in ({}, {"netG_dict": 3}, [torch.zeros(1)]):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match="holds neither"):
            read_official(path)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizerG": [1]},
        {"optimizerG": {"state": {0: 3}}},
        {"optimizerG": {"state": {0: {"ema": torch.zeros(1)}}}},
        {"optimizerD": 7},
    ],
    ids=range(4),
)
def test_a_training_file_of_another_form_is_named(tmp_path, change):
    torch.save(training_state() | change, tmp_path / "content.pth")
    with pytest.raises(CheckpointError, match=r"content\.pth has netG_dict, but is otherwise not"):
        read_official(tmp_path / "content.pth")


def test_damage_is_told_as_such(tmp_path):
    """Files of old torch have no checksum; damage ends in errors of any kind."""
    path = tmp_path / "netG_1.pth"
    torch.save({"weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            read_official(path)
        except CheckpointError:
            refused += 1
    assert refused > len(whole) / 6


TINY_CONFIG = f"""
_base_ = ["{ROOT / "configs" / "ddgan_cifar10.py"}"]
model = dict(
    generator=dict(
        image_size=16, base_channels=32, channel_multipliers=(1, 2), latent_dim=16,
        embedding_dim=32, num_mapping_layers=2,
    ),
    discriminator=dict(
        stem_channels=32, blocks=((32, False), (64, True), (128, True), (128, True)),
        time_embedding_dim=32,
    ),
)
"""


def run_tool(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "convert_official.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_tool_writes_a_file_that_loads_without_its_config(tmp_path, inputs, parity):
    weights, config, out = (
        tmp_path / "content.pth",
        tmp_path / "tiny.py",
        tmp_path / "t.safetensors",
    )
    torch.save(training_state(ema=False), weights)
    config.write_text(TINY_CONFIG)
    done = run_tool(weights, "--config", config, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "generator_ema, generator, discriminator" in done.stdout
    assert "optimizerG" in done.stdout
    config.unlink()
    model = load_model(out, device="cpu")
    with torch.no_grad():
        x0 = model.generator_ema(inputs["x_t"], inputs["t"], inputs["z"])
        logits = model.discriminator(inputs["x_prev"], inputs["t"], inputs["x_t"])
    assert_relative(x0, parity["G"])
    assert_relative(logits, parity["D"])


def test_the_tool_refuses_another_config_in_one_message(tmp_path):
    weights, out = tmp_path / "netG_5.pth", tmp_path / "t.safetensors"
    torch.save(prefixed(official_state("G")), weights)
    done = run_tool(weights, "--config", ROOT / "configs" / "ddgan_gaussians25.py", "--out", out)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the config's generator is MLPGenerator")
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_a_compressed_archive_is_refused(tmp_path):
    """A small file could unpack to any size."""
    plain, bomb = tmp_path / "netG_1.pth", tmp_path / "netG_2.pth"
    torch.save({"weight": torch.zeros(1_000_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as out:
        for part in source.infolist():
            out.writestr(part.filename, source.read(part))
    assert bomb.stat().st_size < plain.stat().st_size / 100
    with pytest.raises(CheckpointError, match="not stored as torch does"):
        read_official(bomb)

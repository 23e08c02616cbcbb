"""What the tests of runs ask of folders and outputs, and configs with faults in them."""

import re
from pathlib import Path

import torch

from ddgan.engine import read_checkpoint

POINTS = Path(__file__).parents[1] / "configs" / "points.py"


def faulty(folder, base=POINTS, **hooks):
    """Write a config whose only custom hooks are ``type=arguments``; return its path."""
    path = folder / f"config_{len([*folder.glob('config_*')])}.py"
    listed = [{"type": kind, **arguments} for kind, arguments in hooks.items()]
    path.write_text(f"_base_ = [{str(base)!r}]\ncustom_hooks = {listed}\n")
    return path


def same_weights(a, b, name):
    a, b = (read_checkpoint(folder / name)["state_dict"] for folder in (a, b))
    return all(torch.equal(a[key], b[key]) for key in a if torch.is_tensor(a[key]))


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("iter_*.pth"))


def assert_equal(actual, expected, path=""):
    """Compare nested checkpoints: tensors bit for bit, all else by equality."""
    assert type(actual) is type(expected), path
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_equal(actual[key], value, f"{path}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), path
        for index, value in enumerate(expected):
            assert_equal(actual[index], value, f"{path}.{index}")
    elif isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype, path
        assert actual.numpy().tobytes() == expected.numpy().tobytes(), path
    else:
        assert actual == expected or path.endswith("meta.config"), path


def assert_same_training(folder, reference, name):
    """Compare all that a checkpoint holds, but for the config, which names the folder."""
    actual, expected = read_checkpoint(folder / name), read_checkpoint(reference / name)
    assert {"generator", "discriminator"} == expected["optimizer"].keys()
    assert_equal(actual, expected)


def assert_one_message(result, *parts):
    status, output = result
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert status == 1, output
    assert len(errors) == 1, output
    assert "Traceback" not in output, output
    for part in parts:
        assert re.search(part, errors[0]), output

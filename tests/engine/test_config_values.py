"""Values from the command line and in configs: whole strings, types, helpers."""

import argparse

import pytest

from ddgan.engine import load_config
from ddgan.engine.config import check_config
from ddgan.errors import ConfigError
from ddgan.utils.cli import add_options

CONFIG = "configs/ddgan_stackeddigits.py"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def read(*pairs):
    parser = argparse.ArgumentParser()
    add_options(parser, "--cfg-options")
    return parser.parse_args(["--cfg-options", *pairs]).cfg_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/data/my pictures", "/data/my pictures"),
        ("/data/x,y", "/data/x,y"),
        ('"/data/x,y"', "/data/x,y"),
        ("'3'", "3"),
        ("it's here", "it's here"),
        ("a=b=c", "a=b=c"),
        (r"C:\new\table", r"C:\new\table"),
        (" padded ", " padded "),
        ("(draft) faces (1)", "(draft) faces (1)"),
        ("", ""),
        ("12", 12),
        ("-2e-4", -2e-4),
        ("true", True),
        ("None", None),
        ("1,2,3", [1, 2, 3]),
        ("8,", [8]),
        ("(1", "(1"),
        ("[a][b]", "[a][b]"),
        ("[1,2,(3,4)]", [1, 2, (3, 4)]),
        ("[0.5, 0.99]", [0.5, 0.99]),
        ("(1,2)", (1, 2)),
        ("[]", []),
        ("[[128,False],[256,True]]", [[128, False], [256, True]]),
        ("[my images, 'x,y', 3]", ["my images", "x,y", 3]),
        ("[it's, a]", ["it's", "a"]),
    ],
)
def test_values_of_the_command_line(text, value):
    (found,) = read(f"key={text}").values()
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("pair", ["key", "=1", "key=[(1]", "key=['a, b]"])
def test_unreadable_options_are_named(pair, capsys):
    with pytest.raises(SystemExit):
        read(pair)
    assert pair.split("=")[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "key",
    [
        "train_cfg.max_iters",
        "train_dataloader.batch_size",
        "model.diffusion.num_steps",
        "model.generator.num_layers",
        "default_hooks.checkpoint.interval",
        "custom_hooks.0.interval",
        "evaluation.modes.num",
        "randomness.seed",
    ],
)
def test_whole_numbers_may_be_written_as_floats(key):
    config = load_config(CONFIG, {key: 3.0})
    value = config
    for part in key.split("."):
        value = value[int(part)] if part.isdigit() else value[part]
    assert (type(value), value) == (int, 3)
    with pytest.raises(ConfigError, match=f"^{key} is 2.5; expected a whole number"):
        load_config(CONFIG, {key: 2.5})
    with pytest.raises(ConfigError, match=f"^{key} is 'many'; expected a whole number"):
        load_config(CONFIG, {key: "many"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim_wrapper.generator.optimizer.lr", "fast"),
        ("optim_wrapper.generator.optimizer.betas", 0.5),
        ("param_scheduler.generator.0.T_max", "long"),
        ("model.generator", 3),
        ("model.generator.data_shape", "3,8,8"),
        ("model.generator.tanh", "yes"),
        ("model.diffusion.beta_max", [20]),
        ("model.ema_decay", "slow"),
        ("train_dataloader.num_workers", "two"),
        ("env_cfg.dist_cfg.timeout", "never"),
        ("load_from", 3),
        ("compile", "maybe"),
    ],
)
def test_errors_of_types_name_the_key(key, value):
    with pytest.raises(ConfigError) as caught:
        load_config(CONFIG, {key: value})
    assert f"{key} is {value!r}; expected" in str(caught.value)


def test_shipped_configs_have_the_right_types(request):
    for path in sorted((request.config.rootpath / "configs").glob("*.py")):
        assert check_config(load_config(path).to_dict()) == {}, path


def write(folder, text, request):
    path = folder / "config.py"
    path.write_text(f"_base_ = [{str(request.config.rootpath / CONFIG)!r}]\n{text}")
    return path


def test_helpers_of_a_config(tmp_path, monkeypatch, request):
    monkeypatch.setenv("RUNS", "/runs")
    text = """
import os
from math import sqrt
from pathlib import Path
_width = 2 * int(sqrt(64))
half = _width // 2
model = dict(generator=dict(hidden_dim=_width), discriminator=dict(hidden_dim=half))
del half
def name(n): return f"run {n}"
work_dir = os.environ["RUNS"] + "/" + name(1)
"""
    config = load_config(write(tmp_path, text, request))
    assert config.work_dir == "/runs/run 1"
    assert (config.model.generator.hidden_dim, config.model.discriminator.hidden_dim) == (16, 8)
    assert not {"os", "sqrt", "Path", "name", "half", "_width"} & set(config)


def test_another_variable_is_refused_with_the_way_out(tmp_path, request):
    with pytest.raises(ConfigError, match=r"no key 'width'.*helper variable's name begins with _"):
        load_config(write(tmp_path, "width = 3\n", request))

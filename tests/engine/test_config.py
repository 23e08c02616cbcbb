import json
from pathlib import Path

import pytest
import torch
from mmengine import Config

from ddgan.engine import check_config, load_config
from ddgan.engine.config import check_trusted_types, config_from_json, config_to_json
from ddgan.errors import CheckpointError, ConfigError
from ddgan.registry import MODELS

CONFIGS = Path(__file__).parents[2] / "configs"
LEAVES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob("*.py")) + sorted(
    p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob("paper/*.py")
)
ADAM = {"optimizer": {"type": "Adam", "lr": 1e-4}}

MISSPELT = [
    ({"modle.type": "DDGAN"}, "the config has no key 'modle'; did you mean 'model'"),
    ({"model.r1_gama": 1}, r"model \(DDGAN\) has no key 'r1_gama'; did you mean 'r1_gamma'"),
    ({"model.generator.base_chanels": 8}, "did you mean 'base_channels'"),
    ({"model.generator.type": "NCSNp"}, "'NCSNp', which is not registered; did you mean 'NCSNpp'"),
    ({"model.diffusion.num_step": 2}, "model.diffusion has no key.*did you mean 'num_steps'"),
    ({"model.data_preprocessor.flop": True}, "did you mean 'flip'"),
    ({"train_cfg.max_iter": 5}, "did you mean 'max_iters'"),
    ({"train_dataloader.batchsize": 5}, "did you mean 'batch_size'"),
    ({"train_dataloader.dataset.rot": "x"}, "did you mean 'root'"),
    ({"train_dataloader.sampler.shufle": True}, "did you mean 'shuffle'"),
    ({"optim_wrapper.generator.optimizer.beta": 1}, "did you mean 'betas'"),
    ({"optim_wrapper.generator.accumulative_count": 2}, "did you mean 'accumulative_counts'"),
    ({"optim_wrapper.generator.clip_grad.maxnorm": 1}, "did you mean 'max_norm'"),
    ({"optim_wrapper.generator.optimiser.lr": 1}, "did you mean 'optimizer'"),
    ({"optim_wrapper.generatr.optimiser.lr": 1}, r"optim_wrapper.generatr is .*\['optimizer'\]"),
    ({"param_scheduler.generatr": []}, "did you mean 'generator'"),
    ({"param_scheduler": {"_delete_": True, "generator": []}}, "has no 'discriminator'; expected"),
    ({"param_scheduler.generator.0.eta_mim": 1}, "did you mean 'eta_min'"),
    ({"default_hooks.chekpoint.interval": 5}, "did you mean 'checkpoint'"),
    ({"default_hooks.checkpoint.intervall": 5}, "did you mean 'interval'"),
    ({"custom_hooks.0.nun": 5}, "did you mean 'num'"),
    ({"custom_hooks": [{"interval": 5}]}, r"custom_hooks.0 is .*expected a dict with \['type'\]"),
    ({"visualizer.vis_backend": []}, "did you mean 'vis_backends'"),
    ({"env_cfg.cudnn_bench": True}, "did you mean 'cudnn_benchmark'"),
    ({"env_cfg.dist_cfg.timeouts": 5}, "did you mean 'timeout'"),
    ({"randomness.sed": 5}, "did you mean 'seed'"),
    ({"randomness.diff_rank_seed": True}, "no key 'diff_rank_seed'"),
    ({"train_dataloader.persistent_workers": True}, "persistent_workers would not be read"),
    ({"custom_imports": {"import": ["os"]}}, "did you mean 'imports'"),
    ({"evaluation.modes": {"type": "DigitModes", "nmu": 5}}, "did you mean 'num'"),
    ({"custom_hooks.7.num": 5}, "do not fit"),
    ({"default_hooks": 3}, "default_hooks is 3; expected a dict"),
    ({"default_hooks.checkpoint": 3}, "default_hooks.checkpoint is 3; expected a dict"),
    ({"train_dataloader": 5}, "train_dataloader is 5; expected a dict"),
    ({"evaluation.fid": 5}, "evaluation.fid is 5; expected a dict"),
    ({"optim_wrapper": "Adam"}, "optim_wrapper is 'Adam'; expected a dict"),
    ({"train_cfg": {"_delete_": True, "max_iters": 5}}, r"train_cfg is .* with \['type'\]"),
]


@pytest.mark.parametrize(("options", "message"), MISSPELT, ids=[next(iter(o)) for o, _ in MISSPELT])
def test_a_misspelt_key_is_an_error_with_a_hint(options, message):
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS / "ddgan_cifar10.py", options)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model = dict(", "SyntaxError: .* was never closed"),
        ("model = foo", "NameError: name 'foo' is not defined"),
        ("_base_ = ['nowhere.py']", r"FileNotFoundError: .*nowhere\.py"),
        ("custom_imports = dict(imports=['nowhere_at_all'])", "No module named 'nowhere_at_all'$"),
    ],
)
def test_a_config_that_fails_is_named(tmp_path, text, reason):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"mine\.py, or .* cannot be executed: .*{reason}"):
        load_config(tmp_path / "mine.py")


def test_hooks_are_a_list():
    cfg = load_config(CONFIGS / "ddgan_cifar10.py").to_dict()
    with pytest.raises(ConfigError, match=r"custom_hooks is .*; expected a list of dicts"):
        check_config(cfg | {"custom_hooks": {"type": "EqualReplicas"}})


@pytest.mark.parametrize("part", ["model", "train_dataloader", "train_cfg", "optim_wrapper"])
def test_a_missing_part_is_named(part):
    cfg = load_config(CONFIGS / "ddgan_cifar10.py").to_dict()
    del cfg[part]
    with pytest.raises(ConfigError, match=rf"the config is .*expected a dict with \['{part}'\]"):
        check_config(cfg)


def test_what_mmengine_allows_is_not_misspelt():
    cfg = load_config(
        CONFIGS / "ddgan_cifar10.py",
        {
            "default_hooks.logger": None,
            "default_hooks.checkpoint": {"_delete_": True, "interval": 7},
            "optim_wrapper.generator.clip_grad": {"type": "value", "clip_value": 0.5},
            "optim_wrapper.generator.accumulative_counts": 4,
            "optim_wrapper.discriminator.optimizer": {"_delete_": True, "type": "SGD", "lr": 0.1},
            "train_dataloader.dataset": {"_delete_": True, "type": "StackedDigits"},
            "train_dataloader.num_workers": 2,
            "custom_hooks": [{"type": "mmengine.EmptyCacheHook", "after_iter": True}],
        },
    )
    assert cfg.train_dataloader.dataset.to_dict() == {"type": "StackedDigits"}


def test_options_change_what_their_user_expects(monkeypatch, load_tool):
    tool = load_tool("train")
    command = "train.py CONFIG --seed 7 --amp bf16 --device cpu --compile --work-dir there"
    options = [
        "train_cfg.max_iters=7",
        "optim_wrapper.generator.optimizer.betas=(0.1,0.2)",
        "model.generator.channel_multipliers=[1,2]",
        "model.generator.attention_resolutions=8,",
        "custom_hooks.0.num=5",
        "model.r1_gamma=0.25",
        "train_dataloader.pin_memory=False",
    ]
    command = command.replace("CONFIG", str(CONFIGS / "ddgan_cifar10.py")).split()
    monkeypatch.setattr("sys.argv", [*command, "--cfg-options", *options])
    cfg = tool.read_config(tool.parse_args())
    assert cfg.train_cfg.max_iters == 7
    assert tuple(cfg.optim_wrapper.generator.optimizer.betas) == (0.1, 0.2)
    assert cfg.optim_wrapper.discriminator.optimizer.betas == (0.5, 0.9)
    assert cfg.model.generator.channel_multipliers == [1, 2]
    assert cfg.custom_hooks[0].num == 5
    assert cfg.model.r1_gamma == 0.25
    assert cfg.train_dataloader.pin_memory is False
    assert (cfg.randomness.seed, cfg.device, cfg.work_dir, cfg.compile) == (7, "cpu", "there", True)
    assert cfg.optim_wrapper.generator.amp == cfg.optim_wrapper.discriminator.amp == "bf16"
    assert not cfg.get("resume")


GENERATORS = {"ddgan_cifar10.py": 48_432_515, "ddgan_celebahq256.py": 39_726_979}
GENERATORS["ddgan_lsunchurch256.py"] = GENERATORS["ddgan_celebahq256.py"]
GENERATORS["ddgan_stackedmnist.py"] = GENERATORS["ddgan_cifar10.py"]
DISCRIMINATORS = {"ddgan_cifar10.py": 12_741_633, "ddgan_celebahq256.py": 27_737_217}
DISCRIMINATORS["ddgan_lsunchurch256.py"] = DISCRIMINATORS["ddgan_celebahq256.py"]
DISCRIMINATORS["ddgan_stackedmnist.py"] = DISCRIMINATORS["ddgan_cifar10.py"]


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", LEAVES)
def test_every_config_loads_and_its_model_builds(name):
    cfg = load_config(CONFIGS / name)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    assert count(model.generator) == GENERATORS.get(name, count(model.generator))
    if name in DISCRIMINATORS:
        assert count(model.discriminator) == DISCRIMINATORS[name]
    assert count(model.generator_ema) == count(model.generator)
    # What a checkpoint carries builds the same model.
    stored = config_from_json(config_to_json(cfg))
    check_trusted_types(stored.model)
    with torch.device("meta"):
        again = MODELS.build(stored.model)
    shapes = {key: value.shape for key, value in model.state_dict().items() if "extra" not in key}
    assert shapes == {
        key: value.shape for key, value in again.state_dict().items() if "extra" not in key
    }


def test_a_missing_config_is_named():
    with pytest.raises(ConfigError, match=r"'configs/nothing\.py' is not a file"):
        load_config("configs/nothing.py")


def test_a_stored_config_may_name_a_removed_option_at_its_only_value():
    model = {"type": "DDGAN", "generator": {"type": "NCSNpp", "image_size": 8, "fir": True}}
    stored = config_from_json(json.dumps({"model": model}))
    assert stored.model.generator == {"type": "NCSNpp", "image_size": 8}
    model["generator"]["fir"] = False
    with pytest.raises(CheckpointError, match=r"NCSNpp.*'fir'.*version"):
        config_from_json(json.dumps({"model": model}))


@pytest.mark.parametrize(
    "model",
    [
        {"type": "os.system", "command": "true"},
        {"type": "subprocess.Popen", "args": ["true"]},
        {"type": "ddgan.os.system"},
        {"type": "DDGAN", "generator": {"type": "builtins.exec"}},
        {"type": "DDGAN", "blocks": [[{"type": "evil"}]]},
        {"type": ["DDGAN"]},
        {"type": "DDGAN", "generator": {"type": "NCSNpp", "_scope_": "evil"}},
    ],
    ids=str,
)
def test_a_stored_config_may_name_registered_types_only(model):
    with pytest.raises(ConfigError, match=r"which no imported package registers|'_scope_'"):
        check_trusted_types(Config({"model": model}).model)

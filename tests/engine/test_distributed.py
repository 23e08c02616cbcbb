import json
import sys
from pathlib import Path

import pytest
import torch

from ddgan.apis import load_model
from ddgan.engine import read_checkpoint
from ddgan.errors import ConfigError
from ddgan.registry import HOOKS, MODELS

ROOT = Path(__file__).parents[2]

PACKAGE = '''
import json
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from torch import nn

from ddgan.networks import MLPGenerator
from ddgan.registry import HOOKS, MODELS


@MODELS.register_module()
class OutsideGenerator(nn.Module):
    def __init__(self, num_steps, hidden_dim):
        super().__init__()
        self.net = MLPGenerator(num_steps, hidden_dim=hidden_dim, num_layers=1)
        self.gain = nn.Parameter(torch.ones(2))
        self.latent_dim = self.net.latent_dim
        self.data_shape = self.net.data_shape

    def forward(self, x_t, t, z=None):
        return self.gain * x_t + self.net(x_t, t, z)


@HOOKS.register_module()
class CompareRanks(Hook):
    """Write how far the state of any rank is from that of the first."""

    def after_train(self, runner):
        own = {n: v for n, v in runner.model.state_dict().items() if torch.is_tensor(v)}
        gaps = {}
        for name, value in own.items():
            everyone = [torch.empty_like(value) for _ in range(runner.world_size)]
            dist.all_gather(everyone, value)
            gaps[name] = max(float((v - everyone[0]).abs().max()) for v in everyone)
        report = {"world_size": runner.world_size, "gaps": gaps, "iter": runner.iter}
        (Path(runner.work_dir) / f"ranks_{runner.rank}.json").write_text(json.dumps(report))
'''

CONFIG = f"""
_base_ = ["{ROOT}/tests/configs/points.py"]
custom_imports = dict(imports=["outside_package"])
model = dict(generator=dict(_delete_=True, type="OutsideGenerator", num_steps=4, hidden_dim=8))
custom_hooks = [dict(type="CompareRanks")]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, start_tool, free_port):
    """Return the folder in which a config with an outside package was trained on two processes.

    They are started as on two machines with one GPU each.
    """
    folder = tmp_path_factory.mktemp("outside")
    (folder / "outside_package.py").write_text(PACKAGE)
    (folder / "config.py").write_text(CONFIG)
    port = str(free_port())
    nodes = [
        start_tool(
            ["bash", ROOT / "tools" / "dist_train.sh", "config.py", 1, "--device", "cpu"],
            folder,
            PYTHONPATH=f"{ROOT}:{folder}",
            PORT=port,
            NNODES="2",
            NODE_RANK=str(node),
        )
        for node in (0, 1)
    ]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    output = outputs[0]
    assert "global batch 16 (2 x 8)" in output
    assert "Warning" not in output
    return folder


@pytest.fixture(autouse=True)
def forget_the_package():
    """Unregister the outside package after each test, so that none depends on another."""
    yield
    sys.modules.pop("outside_package", None)
    MODELS.module_dict.pop("OutsideGenerator", None)
    HOOKS.module_dict.pop("CompareRanks", None)


def test_two_processes_keep_equal_parameters(run):
    for rank in (0, 1):
        report = json.loads((run / f"work_dirs/config/ranks_{rank}.json").read_text())
        assert (report["world_size"], report["iter"]) == (2, 6)
        assert {name.split(".")[0] for name in report["gaps"]} == {
            "generator",
            "discriminator",
            "generator_ema",
        }
        assert set(report["gaps"].values()) == {0.0}


def test_files_do_not_import_packages_by_themselves(run, call_tool, monkeypatch, tmp_path):
    path = run / "work_dirs/config/iter_6.pth"
    monkeypatch.syspath_prepend(str(run))
    with pytest.raises(ConfigError, match="'OutsideGenerator', which no imported package"):
        load_model(path)
    status, output = call_tool("sample", path, "--num", 3, "--out", tmp_path / "a.npz")
    assert status == 1
    assert "--import PACKAGE" in output
    assert "outside_package" not in sys.modules

    arguments = ("sample", path, "--num", 3, "--out", tmp_path / "a.npz", "--import")
    status, output = call_tool(*arguments, "no_such_package")
    assert status == 1
    assert "no_such_package" in output
    status, output = call_tool(*arguments, "outside_package")
    assert status == 0, output
    assert type(load_model(path).generator).__name__ == "OutsideGenerator"


def test_two_processes_train_like_one_with_twice_the_batch(run, train, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(run))
    generator = {"_delete_": True, "type": "OutsideGenerator", "num_steps": 4, "hidden_dim": 8}
    import outside_package  # noqa: F401

    train("points", tmp_path / "run", model__generator=generator, train_dataloader__batch_size=16)
    one = read_checkpoint(tmp_path / "run" / "iter_6.pth")
    two = read_checkpoint(run / "work_dirs/config/iter_6.pth")
    assert one["meta"]["samples_seen"] == two["meta"]["samples_seen"] == 96
    start = read_checkpoint(tmp_path / "run" / "iter_3.pth")["state_dict"]
    for name, expected in one["state_dict"].items():
        if not torch.is_tensor(expected):
            assert two["state_dict"][name] == expected
            continue
        torch.testing.assert_close(two["state_dict"][name], expected, rtol=0, atol=2e-6)
        # Training moves the weights by far more than that.
        assert (start[name] - expected).abs().max() > 5e-5, name

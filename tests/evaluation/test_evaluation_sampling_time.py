from pathlib import Path

import pytest
import torch

from ddgan.engine import load_config
from ddgan.evaluation import sampling_time
from ddgan.evaluation.sampling_time import SamplingTime, count_evaluations
from ddgan.registry import MODELS

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("config", "nfe"), [("ddgan_stackeddigits.py", 4), ("spigan_stackeddigits.py", 1)]
)
def test_evaluations_are_counted(config, nfe):
    model = MODELS.build(load_config(CONFIGS / config).model)
    assert count_evaluations(model) == nfe
    sample, calls = model.sample, []

    def twice(*args, **kwargs):
        calls.append(sample(*args, **kwargs))
        return sample(*args, **kwargs)

    model.sample = twice
    assert count_evaluations(model, use_ema=False) == 2 * nfe
    assert len(calls) == 1
    assert not model.generator._forward_hooks


def test_times_are_quantiles_of_the_repeats_after_the_warm_up(monkeypatch):
    class Model:
        device = torch.device("cpu")
        generator = generator_ema = torch.nn.Identity()
        calls = 0

        def sample(self, n, seed=0, batch_size=None, use_ema=True):
            # A batch of the warm-up takes 100 s, the others 1, 2, 3, … s.
            if n == 20:
                self.calls += 1
                clock[0] += 100 if self.calls <= 2 else self.calls - 2
            assert not use_ema

    clock = [0.0]
    monkeypatch.setattr(sampling_time.time, "perf_counter", lambda: clock[0])
    values = SamplingTime(batch_size=20, warmup=2, repeats=5)(Model(), use_ema=False)
    assert values["seconds"] == 3
    assert (values["seconds_q25"], values["seconds_q75"]) == (2, 4)
    assert (values["seconds_min"], values["seconds_max"]) == (1, 5)
    assert values["images_per_second"] == pytest.approx(20 / 3)
    with pytest.raises(ValueError, match=r"repeats=0.*expected"):
        SamplingTime(repeats=0)

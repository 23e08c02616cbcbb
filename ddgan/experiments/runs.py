"""Every training of both papers' experiments, at full size and in its small form."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Training:
    """A config, and the settings that are changed in it."""

    config: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A training at full size on ``gpus`` GPUs, 0 for any one device, and its small form.

    ``full.config`` is its name's. ``gpu_hours`` are those of the papers (V100; A6000 for SPI-GAN on
    CelebA-HQ) where ``is_published``, and rough estimates elsewhere. ``small_minutes`` are those of
    one CPU core, with what is measured.
    """

    name: str
    full: Training
    small: Training
    gpus: int
    gpu_hours: float
    small_minutes: float
    is_published: bool = False


# Short enough to be repeated often; the log and the checkpoints keep pace with the length.
_SHORT = {"default_hooks.logger.interval": 50, "default_hooks.checkpoint.interval": 250}


def _digits(**options: Any) -> Training:
    """Return DDGAN on StackedDigits; ``__`` in a key is a dot.

    Half the config's width halves the time. Trials of fewer iterations ended in few modes.
    """
    narrow = {f"model__{part}__hidden_dim": 256 for part in ("generator", "discriminator")}
    return _small("configs/ddgan_stackeddigits.py", 1_500, narrow | options)


def _unbounded(parametrization: str) -> Training:
    """Return a parametrization whose output is no image, so that no tanh bounds it."""
    return _digits(model__parametrization=parametrization, model__generator__tanh=False)


def _spigan_digits(**options: Any) -> Training:
    """Return SPI-GAN on StackedDigits, with checkpoints for a curve.

    All keep them, since runs of the same settings are shared whichever experiment began them.
    """
    kept = {
        "default_hooks__checkpoint__interval": 50,
        "default_hooks__checkpoint__max_keep_ckpts": -1,
    }
    return _small("configs/spigan_stackeddigits.py", 200, kept | options)


def _small(config: str, iterations: int, options: Mapping[str, Any]) -> Training:
    dotted = {key.replace("__", "."): value for key, value in options.items()}
    return Training(config, {"train_cfg.max_iters": iterations, **_SHORT, **dotted})


def _steps(count: int) -> dict[str, int]:
    parts = ("diffusion", "generator", "discriminator")
    return {f"model__{part}__num_steps": count for part in parts}


def _ddgan(name: str, hours: float, small: Training, gpus: int = 4, published: bool = False) -> Run:
    folder = "configs" if name in _MAIN else "configs/ablations"
    return Run(name, Training(f"{folder}/{name}.py"), small, gpus, hours, 1.0, published)


def _spigan(
    name: str, hours: float, small: Training, published: bool = False, minutes: float = 1.0
) -> Run:
    folder = "configs" if name in _MAIN else "configs/ablations"
    return Run(name, Training(f"{folder}/{name}.py"), small, 2, hours, minutes, published)


def _gaussians(name: str, hours: float, minutes: float) -> Run:
    config = f"configs/{name}.py"
    small = _small(config, 1_500, {"train_dataloader__batch_size": 256})
    return Run(name, Training(config), small, 0, hours, minutes)


def _with_checkpoints(run: Run) -> Run:
    """Keep checkpoints along the training, for a curve."""
    key = "default_hooks.checkpoint"
    kept = {f"{key}.interval": 50_000, f"{key}.max_keep_ckpts": -1}
    return replace(run, full=Training(run.full.config, kept))


# The diffusion model of the points, on the digits.
_DDPM_DIGITS = _small(
    "configs/ddpm_gaussians25_t100.py",
    1_500,
    {
        "model__generator__data_shape": [3, 8, 8],
        "model__data_preprocessor__type": "ImagePreprocessor",
        "model__clip": True,
        "train_dataloader__dataset__type": "StackedDigits",
        "train_dataloader__batch_size": 128,
        "optim_wrapper__generator__optimizer__lr": 1e-3,
        "evaluation__modes__type": "DigitModes",
    },
)
# A network of (h(0), t) as large as r, in place of the ODE.
_MLP_DIGITS = _spigan_digits(
    **{
        f"model.generator.mapping.{key}": value
        for key, value in {
            "_delete_": True,
            "type": "MLPMapping",
            "dim": 64,
            "hidden_dim": 128,
            "num_layers": 2,
            "lr_multiplier": 0.1,
        }.items()
    }
)
_MAIN = {
    f"{method}_{data}"
    for method in ("ddgan", "spigan")
    for data in ("cifar10", "celebahq256", "lsunchurch256", "stackedmnist")
}

_RUNS = (
    _gaussians("gan_gaussians25", 0.1, 1),
    _gaussians("wgangp_gaussians25", 0.1, 1),
    _gaussians("ddpm_gaussians25_t100", 0.1, 1),
    _gaussians("ddpm_gaussians25_t500", 0.2, 2),
    _gaussians("ddgan_gaussians25", 0.2, 2),
    _ddgan("ddgan_cifar10", 192, _digits(), published=True),
    _ddgan("ddgan_cifar10_t1", 96, _digits(**_steps(1))),
    _ddgan("ddgan_cifar10_t2", 96, _digits(**_steps(2))),
    _ddgan("ddgan_cifar10_t8", 288, _digits(**_steps(8))),
    _ddgan(
        "ddgan_cifar10_oneshot_augmentation",
        96,
        _digits(
            **_steps(1), model__augment__type="DiffusionAugmentation", model__augment__num_steps=4
        ),
    ),
    _ddgan("ddgan_cifar10_direct", 192, _unbounded("direct")),
    _ddgan("ddgan_cifar10_noise", 192, _unbounded("noise")),
    _ddgan("ddgan_cifar10_nolatent", 192, _digits(model__generator__latent_dim=0)),
    _ddgan("ddgan_stackedmnist", 72, _digits()),
    _ddgan("ddgan_celebahq256", 1440, _digits(), gpus=8, published=True),
    _ddgan("ddgan_lsunchurch256", 1440, _digits(), gpus=8, published=True),
    Run("ddpm_cifar10", Training("configs/ddpm_cifar10.py"), _DDPM_DIGITS, 1, 200, 1.0),
    Run(
        "stylegan2_cifar10",
        Training("configs/stylegan2_cifar10.py"),
        _small("configs/stylegan2_stackeddigits.py", 300, {}),
        2,
        100,
        1.0,
    ),
    _with_checkpoints(_spigan("spigan_cifar10", 200, _spigan_digits())),
    _spigan("spigan_cifar10_mlp", 200, _MLP_DIGITS),
    _spigan("spigan_stackedmnist", 80, _spigan_digits()),
    _spigan("spigan_celebahq256", 288, _spigan_digits(), published=True),
    _spigan("spigan_lsunchurch256", 288, _spigan_digits()),
    *(
        _spigan(
            f"spigan_cifar10_k{k}", 100 * k, _spigan_digits(model__num_points=k), minutes=0.5 * k
        )
        for k in (1, 3, 4, 5)
    ),
    _with_checkpoints(
        _spigan("spigan_cifar10_fixed", 200, _spigan_digits(model__fixed_points=True))
    ),
)
RUNS: dict[str, Run] = {run.name: run for run in _RUNS}

"""Every experiment of both papers: which trainings it takes, what is measured, which figures.

Commands of figures have places that ``plan`` fills: ``{ckpt:RUN}`` is the checkpoint that a run
ends with, ``{run:RUN}`` its folder, ``{runs}`` the experiment's folder, ``{root}`` the repository,
``{score}`` the column of the tables that the form measures quality by.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Resampled:
    """Weights of another run under other settings of the model, such as DDIM's steps for DDPM."""

    name: str
    of: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """An image and the tool that draws it, without the interpreter and the name of the output.

    A file in a folder of its own is written by a tool whose output is that folder.
    """

    file: str
    command: tuple[str, ...]
    caption: str
    small: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """What a row of a table or a figure takes.

    ``full_metrics`` and ``small_metrics`` are measured of every run and resampled run; ``expected``
    is what the paper says in words where it prints no number. With ``is_curve`` they are measured
    at checkpoints along the training too.
    """

    name: str
    source: str
    what: str
    runs: tuple[str, ...] = ()
    full_metrics: tuple[str, ...] = ()
    small_metrics: tuple[str, ...] = ("modes",)
    figures: tuple[Figure, ...] = ()
    expected: str = ""
    is_curve: bool = False
    resampled: tuple[Resampled, ...] = ()

    def metrics(self, small: bool) -> tuple[str, ...]:
        """Return what is measured in the small form, or at full size."""
        return self.small_metrics if small else self.full_metrics


FIDELITY = ("fid", "is", "recall")


def _samples(*runs: str) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            f"samples_{run}.png",
            ("{root}/tools/sample.py", f"{{ckpt:{run}}}", "--num", "64", "--out"),
            f"Samples of {run}",
        )
        for run in runs
    )


def _curves(run: str) -> Figure:
    command = ("{root}/tools/visualize.py", "curves", f"{{run:{run}}}", "--out")
    return Figure(f"curves_{run}.png", command, f"Training of {run}")


def _drawn(image: str, run: str | None, caption: str) -> Figure:
    """Return a figure of ``tools/visualize.py`` that needs a checkpoint at most."""
    checkpoint = () if run is None else (f"{{ckpt:{run}}}",)
    file = image if run is None else f"{image}_{run}"
    command = ("{root}/tools/visualize.py", image, *checkpoint, "--out")
    return Figure(f"{file}.png", command, caption)


_TABLE_2 = (
    *(f"ddgan_cifar10_t{T}" for T in (1, 2)),
    "ddgan_cifar10",
    "ddgan_cifar10_t8",
    "ddgan_cifar10_oneshot_augmentation",
    "ddgan_cifar10_direct",
    "ddgan_cifar10_noise",
    "ddgan_cifar10_nolatent",
)
_POINTS = {
    "gan_gaussians25": "Vanilla GAN",
    "wgangp_gaussians25": "WGAN-GP",
    "ddpm_gaussians25_t100": "DDPM, 100 steps",
    "ddpm_gaussians25_t500": "DDPM, 500 steps",
    "ddgan_gaussians25": "Denoising Diffusion GAN, 4 steps",
}

_QUALITY_TIME = ("ddgan_cifar10", "spigan_cifar10", "stylegan2_cifar10", "ddpm_cifar10")

_ALL = (
    Experiment(
        "denoising-1d",
        "DDGAN, Fig. 2",
        "1-D data diffused, and the exact denoising distribution for several step sizes",
        small_metrics=(),
        figures=(_drawn("denoising-1d", None, "Diffusion and true denoising distributions"),),
        expected="The smallest step's denoising distribution is nearly Gaussian; larger steps make "
        "it multimodal.",
    ),
    Experiment(
        "ddgan-cifar10",
        "DDGAN, Table 1, Figs. 5, 10 and 11",
        "DDGAN on CIFAR-10: quality, diversity, time; losses per time step",
        ("ddgan_cifar10",),
        (*FIDELITY, "time"),
        figures=(*_samples("ddgan_cifar10"), _curves("ddgan_cifar10")),
    ),
    Experiment(
        "ddgan-ablations",
        "DDGAN, Table 2",
        "T = 1, 2, 4, 8; one-shot with augmentation; direct denoising; noise; no latent",
        _TABLE_2,
        FIDELITY,
        figures=_samples(*_TABLE_2),
    ),
    Experiment(
        "stackedmnist",
        "DDGAN, Table 3",
        "Modes and KL on StackedMNIST, SPI-GAN beside DDGAN",
        ("ddgan_stackedmnist", "spigan_stackedmnist"),
        ("modes",),
        figures=(
            *_samples("ddgan_stackedmnist", "spigan_stackedmnist"),
            _curves("ddgan_stackedmnist"),
            _curves("spigan_stackedmnist"),
        ),
    ),
    Experiment(
        "quality-time",
        "DDGAN, Fig. 4",
        "FID against sampling time: DDGAN, SPI-GAN, StyleGAN2, DDPM, DDIM with fewer steps",
        _QUALITY_TIME,
        ("fid", "time"),
        ("modes", "time"),
        figures=(
            Figure(
                "quality_time.png",
                (
                    "{root}/tools/report.py",
                    "{runs}",
                    *(f"{{run:{run}}}" for run in _QUALITY_TIME),
                    "--figure",
                    "quality-time",
                    "--score",
                    "{score}",
                    "--out",
                ),
                "Sample quality against sampling time",
            ),
        ),
        expected="DDGAN is faster by orders of magnitude than diffusion models of its quality, "
        "which lose quality with fewer steps.",
        resampled=tuple(
            Resampled(
                "ddim_cifar10" + ("" if steps == 50 else f"_{steps}"),
                "ddpm_cifar10",
                {
                    "model.sampler": "ddim",
                    "model.sampling_steps": steps,
                    "model.spacing": "quadratic",
                },
            )
            for steps in (10, 20, 50, 100)
        ),
    ),
    Experiment(
        "gaussians25",
        "DDGAN, Fig. 6",
        "25-Gaussians: vanilla GAN, WGAN-GP, DDPM at 100 and 500 steps, DDGAN at 4",
        tuple(_POINTS),
        ("modes",),
        figures=(
            Figure(
                "gaussians25.png",
                (
                    "{root}/tools/compare.py",
                    *(f"{{ckpt:{run}}}" for run in _POINTS),
                    "--names",
                    *_POINTS.values(),
                    "--out",
                ),
                "Data and samples of each method",
            ),
        ),
        expected="The vanilla GAN suffers from severe mode collapse; WGAN-GP covers more modes at "
        "limited quality; DDGAN covers all modes with high quality; diffusion models need many "
        "steps.",
    ),
    Experiment(
        "ddgan-celebahq256",
        "DDGAN, Table 4, Figs. 7 and 12",
        "DDGAN on CelebA-HQ at 256 x 256",
        ("ddgan_celebahq256",),
        ("fid",),
        figures=_samples("ddgan_celebahq256"),
    ),
    Experiment(
        "ddgan-lsunchurch256",
        "DDGAN, Table 5, Figs. 7 and 13; SPI-GAN, Table 6",
        "DDGAN on LSUN Church at 256 x 256, with recall and coverage",
        ("ddgan_lsunchurch256",),
        ("fid", "recall", "coverage"),
        figures=_samples("ddgan_lsunchurch256"),
    ),
    Experiment(
        "multimodal",
        "DDGAN, Figs. 8, 14 and 15",
        "Several draws of p(x_0 | x_t) for each t",
        ("ddgan_celebahq256", "ddgan_lsunchurch256"),
        (),
        (),
        figures=tuple(
            _drawn("multimodal", run, f"Draws of p(x_0 | x_t), {run}")
            for run in ("ddgan_celebahq256", "ddgan_lsunchurch256")
        ),
        expected="The draws differ, more so for larger t, and keep most of x_1.",
    ),
    Experiment(
        "strokes",
        "DDGAN, Fig. 9",
        "Images from a stroke painting, diffused half the way",
        ("ddgan_lsunchurch256",),
        (),
        (),
        figures=(
            Figure(
                "strokes/grid.png",
                (
                    "{root}/tools/edit.py",
                    "{ckpt:ddgan_lsunchurch256}",
                    "{root}/docs/images/strokes_church.png",
                    "--start-step",
                    "2",
                    "--num",
                    "8",
                    "--out",
                ),
                "The painting and images that follow it",
            ),
        ),
        expected="The images are realistic, differ, and keep the painting's layout; 0.16 s for "
        "one at 256 x 256.",
    ),
    Experiment(
        "training-stability",
        "DDGAN, Fig. 10",
        "The discriminator's loss per time step along the training",
        ("ddgan_cifar10",),
        (),
        (),
        figures=(_curves("ddgan_cifar10"),),
        expected="No loss explodes, and the loss for t > 1 lies above that of the last denoising "
        "step.",
    ),
    Experiment(
        "neighbours",
        "DDGAN, Figs. 16 and 17",
        "Samples beside their nearest training images",
        ("ddgan_cifar10", "ddgan_celebahq256"),
        (),
        (),
        figures=tuple(
            Figure(
                f"neighbours_{run}.png",
                ("{root}/tools/neighbours.py", f"{{ckpt:{run}}}", "--out"),
                f"Samples of {run} (left) and their neighbours",
                # VGG is for larger images.
                small=("--extractor", "pixels", "--num-data", "2000"),
            )
            for run in ("ddgan_cifar10", "ddgan_celebahq256")
        ),
        expected="The nearest training images differ from the samples.",
    ),
    Experiment(
        "spigan-paths",
        "SPI-GAN, Fig. 4",
        "The path of the reverse SDE against the straight path",
        small_metrics=(),
        figures=(_drawn("paths", None, "Reverse SDE and straight interpolation"),),
        expected="The straight path turns noise into a clear image sooner.",
    ),
    Experiment(
        "spigan-cifar10",
        "SPI-GAN, Table 2 and Fig. 5",
        "SPI-GAN on CIFAR-10: quality, diversity, time",
        ("spigan_cifar10",),
        (*FIDELITY, "time"),
        figures=(*_samples("spigan_cifar10"), _curves("spigan_cifar10")),
    ),
    Experiment(
        "spigan-celebahq256",
        "SPI-GAN, Table 3 and Fig. 6",
        "SPI-GAN on CelebA-HQ at 256 x 256",
        ("spigan_celebahq256",),
        ("fid",),
        figures=_samples("spigan_celebahq256"),
    ),
    Experiment(
        "spigan-lsunchurch256",
        "SPI-GAN, Tables 4 and 6, Fig. 7",
        "SPI-GAN on LSUN Church at 256 x 256, with recall and coverage",
        ("spigan_lsunchurch256",),
        ("fid", "recall", "coverage"),
        figures=_samples("spigan_lsunchurch256"),
    ),
    Experiment(
        "spigan-ablations",
        "SPI-GAN, Table 5",
        "K = 1 to 5 and fixed j, beside DDGAN with one step",
        (
            "ddgan_cifar10_t1",
            "spigan_cifar10_k1",
            "spigan_cifar10",
            *(f"spigan_cifar10_k{k}" for k in (3, 4, 5)),
            "spigan_cifar10_fixed",
        ),
        FIDELITY,
        figures=_samples("spigan_cifar10", "spigan_cifar10_fixed"),
    ),
    Experiment(
        "spigan-mapping",
        "SPI-GAN, Sec. 3.3; not in the paper",
        "A network of (h(0), t) in place of the neural ODE",
        ("spigan_cifar10", "spigan_cifar10_mlp"),
        (*FIDELITY, "time"),
        ("modes", "time"),
        figures=tuple(
            _drawn("latent-path", run, f"From h(0) to h(1), {run}")
            for run in ("spigan_cifar10", "spigan_cifar10_mlp")
        ),
        expected="It calls the mapping by the neural ODE its most important component, and has no "
        "experiment without it.",
    ),
    Experiment(
        "spigan-convergence",
        "SPI-GAN, Fig. 8",
        "FID along the training: random against fixed j",
        ("spigan_cifar10", "spigan_cifar10_fixed"),
        ("fid",),
        figures=(
            Figure(
                "convergence.png",
                (
                    "{root}/tools/report.py",
                    "{run:spigan_cifar10}",
                    "{run:spigan_cifar10_fixed}",
                    "--figure",
                    "convergence",
                    "--score",
                    "{score}",
                    "--out",
                ),
                "The score along the training",
            ),
        ),
        expected="Random j converges sooner and to a better FID than fixed j.",
        is_curve=True,
    ),
    Experiment(
        "spigan-latents",
        "SPI-GAN, Figs. 3 and 9 to 11",
        "Images along h(t), between noises z and between latents h(1)",
        ("spigan_celebahq256",),
        (),
        (),
        figures=(
            _drawn("latent-path", "spigan_celebahq256", "From h(0) to h(1)"),
            _drawn("interpolate-z", "spigan_celebahq256", "Between two z"),
            _drawn("interpolate-h", "spigan_celebahq256", "Between two h(1)"),
        ),
        expected="Images change gradually from one to the other; towards h(1) noise is removed.",
    ),
)
EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ALL}

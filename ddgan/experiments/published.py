"""The numbers of the papers' tables, as published, and which config of this project is which row.

Values are transcribed from the papers' texts; None is a dash there. A row's ``note`` says where the
text leaves its place in the table open, or where the two papers differ.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column: its heading, and the record and value that fill it for this project's runs."""

    label: str
    metric: str
    value: str
    digits: int


COLUMNS = {
    "is": Column("IS ↑", "is", "is", 2),
    "fid": Column("FID ↓", "fid", "fid", 2),
    "recall": Column("Recall ↑", "recall", "recall", 2),
    "coverage": Column("Coverage ↑", "coverage", "coverage", 2),
    "nfe": Column("NFE ↓", "nfe", "nfe", 0),
    "time": Column("Time, s ↓", "time", "seconds", 2),
    "modes": Column("Modes ↑", "modes", "modes", 0),
    "kl": Column("KL ↓", "modes", "kl", 3),
    "high_quality": Column("High quality ↑", "modes", "high_quality", 3),
}


@dataclass(frozen=True)
class Row:
    """One system's published values, in the order of the table's columns."""

    system: str
    values: tuple[float | None, ...]
    note: str = ""


@dataclass(frozen=True)
class Ours:
    """A config of this project, and the published system that it stands for, if there is one."""

    config: str
    system: str | None = None


@dataclass(frozen=True)
class Table:
    """One table of a paper; ``num`` is how many samples its protocol takes."""

    name: str
    source: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    ours: tuple[Ours, ...]
    num: int
    note: str = ""

    def published(self, system: str) -> dict[str, float | None]:
        """Return column → published value of a system; raises KeyError for another name."""
        for row in self.rows:
            if row.system == system:
                return dict(zip(self.columns, row.values, strict=True))
        raise KeyError(f"{self.source} has no row {system!r}")


def _rows(*rows: tuple, notes: dict[str, str] | None = None) -> tuple[Row, ...]:
    return tuple(Row(system, values, (notes or {}).get(system, "")) for system, *values in rows)


_CIFAR10_SHARED = (
    ("NCSN (Song & Ermon, 2019)", 8.87, 25.3, None, 1000, 107.9),
    ("Adversarial SSM (Jolicoeur-Martineau et al., 2021b)", None, 6.10, None, 1000, None),
    ("Likelihood SDE (Song et al., 2021b)", None, 2.87, None, None, None),
    ("Score SDE (VE) (Song et al., 2021c)", 9.89, 2.20, 0.59, 2000, 423.2),
    ("Score SDE (VP) (Song et al., 2021c)", 9.68, 2.41, 0.59, 2000, 421.5),
    ("Probability Flow (VP) (Song et al., 2021c)", 9.83, 3.08, 0.57, 140, 50.9),
    ("LSGM (Vahdat et al., 2021)", 9.87, 2.10, 0.61, 147, 44.5),
    ("DDIM, T=50 (Song et al., 2021a)", 8.78, 4.67, 0.53, 50, 4.01),
    ("FastDDPM, T=50 (Kong & Ping, 2021)", 8.98, 3.41, 0.56, 50, 4.01),
    ("Recovery EBM (Gao et al., 2021)", 8.30, 9.58, None, 180, None),
    ("Improved DDPM (Nichol & Dhariwal, 2021)", None, 2.90, None, 4000, None),
    ("VDM (Kingma et al., 2021)", None, 4.00, None, 1000, None),
    ("UDM (Kim et al., 2021)", 10.1, 2.33, None, 2000, None),
    ("D3PMs (Austin et al., 2021)", 8.56, 7.34, None, 1000, None),
    ("Gotta Go Fast (Jolicoeur-Martineau et al., 2021a)", None, 2.44, None, 180, None),
    ("DDPM Distillation (Luhman & Luhman, 2021)", 8.36, 9.36, 0.51, 1, None),
    ("SNGAN (Miyato et al., 2018)", 8.22, 21.7, 0.44, 1, None),
    ("SNGAN+DGflow (Ansari et al., 2021)", 9.35, 9.62, 0.48, 25, 1.98),
    ("AutoGAN (Gong et al., 2019)", 8.60, 12.4, 0.46, 1, None),
    ("TransGAN (Jiang et al., 2021)", 9.02, 9.26, None, 1, None),
    ("StyleGAN2 w/o ADA (Karras et al., 2020a)", 9.18, 8.32, 0.41, 1, 0.04),
    ("StyleGAN2 w/ ADA (Karras et al., 2020a)", 9.83, 2.92, 0.49, 1, 0.04),
    ("StyleGAN2 w/ Diffaug (Zhao et al., 2020)", 9.40, 5.79, 0.42, 1, 0.04),
    ("Glow (Kingma & Dhariwal, 2018)", 3.92, 48.9, None, 1, None),
    ("PixelCNN (Oord et al., 2016b)", 4.60, 65.9, None, 1024, None),
    ("NVAE (Vahdat & Kautz, 2020)", 7.18, 23.5, 0.51, 1, 0.36),
    ("IGEBM (Du & Mordatch, 2019)", 6.02, 40.6, None, 60, None),
    ("VAEBM (Xiao et al., 2021)", 8.43, 12.2, 0.53, 16, 8.79),
)
_TRANSGAN = "TransGAN (Jiang et al., 2021)"
_DDGAN_CIFAR10 = ("Denoising Diffusion GAN, T=4", 9.63, 3.75, 0.57, 4, 0.21)
_DDPM_CIFAR10 = ("DDPM (Ho et al., 2020)", 9.46, 3.21, 0.57, 1000, 80.5)
_CIFAR10_OURS = (
    Ours("ddgan_cifar10", "Denoising Diffusion GAN, T=4"),
    Ours("ddpm_cifar10", "DDPM (Ho et al., 2020)"),
    Ours("ddim_cifar10", "DDIM, T=50 (Song et al., 2021a)"),
    Ours("stylegan2_cifar10", "StyleGAN2 w/ ADA (Karras et al., 2020a)"),
)
_CIFAR10_COLUMNS = ("is", "fid", "recall", "nfe", "time")
_CIFAR10_NOTE = "Time: seconds for a batch of 100 on a V100."

_CELEBAHQ = (
    ("Score SDE (Song et al., 2021c)", 7.23),
    ("LSGM (Vahdat et al., 2021)", 7.22),
    ("UDM (Kim et al., 2021)", 7.16),
    ("NVAE (Vahdat & Kautz, 2020)", 29.7),
    ("VAEBM (Xiao et al., 2021)", 20.4),
    ("NCP-VAE (Aneja et al., 2021)", 24.8),
    ("PGGAN (Karras et al., 2018)", 8.03),
    ("Adv. LAE (Pidhorskyi et al., 2020)", 19.2),
    ("VQ-GAN (Esser et al., 2021b)", 10.2),
    ("DC-AE (Parmar et al., 2021)", 15.8),
)
_CHURCH = (
    ("DDPM (Ho et al., 2020)", 7.89),
    ("ImageBART (Esser et al., 2021a)", 7.32),
    ("Gotta Go Fast (Jolicoeur-Martineau et al., 2021a)", 25.67),
    ("PGGAN (Karras et al., 2018)", 6.42),
    ("StyleGAN (Karras et al., 2019)", 4.21),
    ("StyleGAN2 (Karras et al., 2020b)", 3.86),
    ("CIPS (Anokhin et al., 2021)", 2.92),
)
_SCRAMBLED = "names and values stand apart in the text; matched by their order and DDGAN's Table 5"
_UNNAMED = (
    "the text has the values without the systems' names; matched by what Sec. 4.5 says of them"
)

_ALL = (
    Table(
        "ddgan-1",
        "DDGAN, Table 1",
        "Unconditional generation on CIFAR-10",
        _CIFAR10_COLUMNS,
        _rows(_DDGAN_CIFAR10, _DDPM_CIFAR10, *_CIFAR10_SHARED),
        (*_CIFAR10_OURS, Ours("spigan_cifar10")),
        num=50_000,
        note=_CIFAR10_NOTE,
    ),
    Table(
        "ddgan-2",
        "DDGAN, Table 2",
        "Ablation studies on CIFAR-10",
        ("is", "fid", "recall"),
        _rows(
            ("T = 1", 8.93, 14.6, 0.19),
            ("T = 2", 9.80, 4.08, 0.54),
            ("T = 4", 9.63, 3.75, 0.57),
            ("T = 8", 9.43, 4.36, 0.56),
            ("One-shot w/ aug", 8.96, 13.2, 0.25),
            ("Direct denoising", 9.10, 6.03, 0.53),
            ("Noise generation", 8.79, 8.04, 0.52),
            ("No latent variable", 8.37, 20.6, 0.42),
        ),
        (
            Ours("ddgan_cifar10_t1", "T = 1"),
            Ours("ddgan_cifar10_t2", "T = 2"),
            Ours("ddgan_cifar10", "T = 4"),
            Ours("ddgan_cifar10_t8", "T = 8"),
            Ours("ddgan_cifar10_oneshot_augmentation", "One-shot w/ aug"),
            Ours("ddgan_cifar10_direct", "Direct denoising"),
            Ours("ddgan_cifar10_noise", "Noise generation"),
            Ours("ddgan_cifar10_nolatent", "No latent variable"),
        ),
        num=50_000,
    ),
    Table(
        "ddgan-3",
        "DDGAN, Table 3",
        "Mode coverage on StackedMNIST",
        ("modes", "kl"),
        _rows(
            ("VEEGAN (Srivastava et al.)", 762, 2.173),
            ("PacGAN (Lin et al.)", 992, 0.277),
            ("PresGAN (Dieng et al.)", 1000, 0.115),
            ("InclusiveGAN (Yu et al.)", 997, 0.200),
            ("StyleGAN2 (Karras et al.)", 940, 0.424),
            ("Adv. DSM (Jolicoeur-Martineau et al.)", 1000, 1.49),
            ("VAEBM (Xiao et al.)", 1000, 0.087),
            ("Denoising Diffusion GAN", 1000, 0.071),
        ),
        (Ours("ddgan_stackedmnist", "Denoising Diffusion GAN"), Ours("spigan_stackedmnist")),
        num=25_600,
    ),
    Table(
        "ddgan-4",
        "DDGAN, Table 4",
        "Generative results on CelebA-HQ-256",
        ("fid",),
        _rows(("Denoising Diffusion GAN", 7.64), *_CELEBAHQ),
        (Ours("ddgan_celebahq256", "Denoising Diffusion GAN"), Ours("spigan_celebahq256")),
        num=30_000,
    ),
    Table(
        "ddgan-5",
        "DDGAN, Table 5",
        "Generative results on LSUN Church 256",
        ("fid",),
        _rows(("Denoising Diffusion GAN", 5.25), *_CHURCH),
        (Ours("ddgan_lsunchurch256", "Denoising Diffusion GAN"), Ours("spigan_lsunchurch256")),
        num=50_000,
    ),
    Table(
        "spigan-2",
        "SPI-GAN, Table 2",
        "Unconditional generation on CIFAR-10",
        _CIFAR10_COLUMNS,
        _rows(
            ("SPI-GAN, K=2", 10.3, 3.09, 0.66, 1, 0.05),
            _DDGAN_CIFAR10,
            _DDPM_CIFAR10,
            *(
                (_TRANSGAN, 9.02, 9.26, 0.48, 25, None) if row[0] == _TRANSGAN else row
                for row in _CIFAR10_SHARED
            ),
            notes={_TRANSGAN: "DDGAN's Table 1 has no recall and NFE 1 for this system"},
        ),
        (Ours("spigan_cifar10", "SPI-GAN, K=2"), *_CIFAR10_OURS),
        num=50_000,
        note="The paper does not name the device of its own time; the other times are DDGAN's.",
    ),
    Table(
        "spigan-3",
        "SPI-GAN, Table 3",
        "Results on CelebA-HQ-256",
        ("fid",),
        _rows(("SPI-GAN", 6.62), ("Denoising Diffusion GAN", 7.64), *_CELEBAHQ),
        (
            Ours("spigan_celebahq256", "SPI-GAN"),
            Ours("ddgan_celebahq256", "Denoising Diffusion GAN"),
        ),
        num=30_000,
    ),
    Table(
        "spigan-4",
        "SPI-GAN, Table 4",
        "Results on LSUN-Church-256",
        ("fid",),
        _rows(
            ("SPI-GAN", 6.03),
            ("Denoising Diffusion GAN", 5.25),
            *((name, 25.6 if fid == 25.67 else fid) for name, fid in _CHURCH),
            notes={"SPI-GAN": _SCRAMBLED},
        ),
        (
            Ours("spigan_lsunchurch256", "SPI-GAN"),
            Ours("ddgan_lsunchurch256", "Denoising Diffusion GAN"),
        ),
        num=50_000,
    ),
    Table(
        "spigan-5",
        "SPI-GAN, Table 5",
        "Ablation studies on CIFAR-10",
        ("is", "fid", "recall"),
        _rows(
            ("K = 1 (DD-GAN)", 8.93, 14.6, 0.19),
            ("K = 1 (SPI-GAN)", 9.42, 10.5, 0.60),
            ("K = 2", 10.3, 3.09, 0.66),
            ("K = 3", 9.65, 8.45, 0.68),
            ("K = 4", 9.68, 5.49, 0.67),
            ("K = 5", 9.61, 6.25, 0.65),
            ("Fixed j", 8.58, 20.8, 0.63),
        ),
        (
            Ours("ddgan_cifar10_t1", "K = 1 (DD-GAN)"),
            Ours("spigan_cifar10_k1", "K = 1 (SPI-GAN)"),
            Ours("spigan_cifar10", "K = 2"),
            Ours("spigan_cifar10_k2", "K = 2"),
            Ours("spigan_cifar10_k3", "K = 3"),
            Ours("spigan_cifar10_k4", "K = 4"),
            Ours("spigan_cifar10_k5", "K = 5"),
            Ours("spigan_cifar10_fixed", "Fixed j"),
            Ours("spigan_cifar10_mlp"),
        ),
        num=50_000,
    ),
    Table(
        "spigan-6",
        "SPI-GAN, Table 6",
        "Improved quality metrics on LSUN-Church-256",
        ("recall", "coverage"),
        _rows(
            ("SPI-GAN", 0.28, 0.65),
            ("Denoising Diffusion GAN", 0.16, 0.58),
            ("CIPS (Anokhin et al., 2021)", 0.43, 0.57),
            notes=dict.fromkeys(
                ("SPI-GAN", "Denoising Diffusion GAN", "CIPS (Anokhin et al., 2021)"), _UNNAMED
            ),
        ),
        (
            Ours("spigan_lsunchurch256", "SPI-GAN"),
            Ours("ddgan_lsunchurch256", "Denoising Diffusion GAN"),
        ),
        num=50_000,
    ),
)
TABLES: dict[str, Table] = {table.name: table for table in _ALL}

"""Images of samples and runs, the papers' figures, and the files that hold samples."""

from ddgan.visualization.comparison import (
    QualityTimePoint,
    ScatterPanel,
    plot_quality_time,
    plot_scatter_comparison,
)
from ddgan.visualization.curves import plot_convergence, plot_curves, read_scalars
from ddgan.visualization.denoising import plot_denoising
from ddgan.visualization.digits import plot_digits
from ddgan.visualization.grid import image_grid, save_rows, save_samples, scatter
from ddgan.visualization.latent import along_path, between_latents, between_noise
from ddgan.visualization.multimodal import draw_each_step, plot_multimodal
from ddgan.visualization.paths import both_paths, plot_paths
from ddgan.visualization.writers import written_samples

__all__ = [
    "QualityTimePoint",
    "ScatterPanel",
    "along_path",
    "between_latents",
    "between_noise",
    "both_paths",
    "draw_each_step",
    "image_grid",
    "plot_convergence",
    "plot_curves",
    "plot_denoising",
    "plot_digits",
    "plot_multimodal",
    "plot_paths",
    "plot_quality_time",
    "plot_scatter_comparison",
    "read_scalars",
    "save_rows",
    "save_samples",
    "scatter",
    "written_samples",
]

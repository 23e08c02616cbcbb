"""Pictures of samples and runs, and the files that hold samples."""

from ddgan.visualization.curves import plot_curves, read_scalars
from ddgan.visualization.digits import plot_digits
from ddgan.visualization.grid import image_grid, save_samples, scatter
from ddgan.visualization.latent import along_path, between_latents, between_noise, save_rows
from ddgan.visualization.writers import SampleWriter, open_writer, written_samples

__all__ = [
    "SampleWriter",
    "along_path",
    "between_latents",
    "between_noise",
    "image_grid",
    "open_writer",
    "plot_curves",
    "plot_digits",
    "read_scalars",
    "save_rows",
    "save_samples",
    "scatter",
    "written_samples",
]

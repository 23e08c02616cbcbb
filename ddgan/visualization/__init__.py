"""Pictures of samples."""

from ddgan.visualization.grid import image_grid, save_samples

__all__ = ["image_grid", "save_samples"]

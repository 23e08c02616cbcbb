"""Few-step generative models trained adversarially over a diffusion process."""

__version__ = "0.1.0"

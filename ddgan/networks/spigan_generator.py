"""The generator of SPI-GAN: noise → h(0) → h(t) → image (Fig. 2)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddgan.networks.node_mapping import NoiseEmbedding
from ddgan.networks.stylegan2_synthesis import noise_shapes
from ddgan.registry import MODELS


@MODELS.register_module()
class SPIGANGenerator(nn.Module):
    """Draw images from noise in their own shape: o, the mapping to h(t), and StyleGAN2 (Fig. 2).

    ``synthesis`` is a ``StyleGAN2Generator`` without mapping layers, whose latent is h(t); it gets
    no time. ``mapping`` is a ``NeuralODEMapping`` or ``MLPMapping``. ``pool_to`` and
    ``embedding_lr_multiplier`` are those of o. Raises ValueError if the parts do not fit.
    """

    def __init__(
        self,
        mapping: dict | nn.Module,
        synthesis: dict | nn.Module,
        pool_to: int = 32,
        embedding_lr_multiplier: float = 1.0,
    ):
        super().__init__()
        self.mapping = _build(mapping)
        self.synthesis = _build(synthesis)
        self.latent_dim = self.mapping.dim
        if self.synthesis.latent_dim != self.latent_dim:
            raise ValueError(
                f"mapping.dim is {self.latent_dim} and synthesis.latent_dim "
                f"{self.synthesis.latent_dim}; expected the same, the size of h(t)"
            )
        self.data_shape = self.synthesis.data_shape
        self.embedding = NoiseEmbedding(
            self.data_shape, self.latent_dim, pool_to, embedding_lr_multiplier
        )

    @property
    def noise_shapes(self) -> list[tuple[int, int, int]]:
        """The shapes (1, H, W) of the noise of each layer of the synthesis network."""
        return noise_shapes(self.data_shape[-1])

    def forward(
        self,
        x_T: Tensor,
        times: Tensor | None = None,
        noise: Sequence[Tensor] | None = None,
        truncation: float = 1.0,
        end: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Images at each of ``times`` and at 1, (K, N, C, H, W), and the styles at 1.

        ``x_T`` (N, C, H, W) is noise of unit variance, ``times`` (K - 1,) lie in [0, 1]. ``noise``
        has (K, N, *shape) normals for each of ``noise_shapes``; None means fixed maps.
        ``truncation`` holds at t = 1. The styles are (N, num_ws, w_dim). ``end=False`` leaves out
        t = 1: its image, its noise and its styles, which are None.
        """
        h = self.latents(x_T, times)
        if not end:
            every = "const" if noise is None else [layer.flatten(0, 1) for layer in noise]
            images = self.render(h[:-1].flatten(0, 1), every)
            return images.unflatten(0, (len(h) - 1, -1)), None
        last = "const" if noise is None else [layer[-1] for layer in noise]
        images, styles = self.synthesis(h[-1], truncation, last, return_ws=True)
        if len(h) == 1:
            return images[None], styles
        # By itself, so that the average that truncation uses is one of h(1) alone.
        inner = "const" if noise is None else [layer[:-1].flatten(0, 1) for layer in noise]
        before = self.render(h[:-1].flatten(0, 1), inner)
        return torch.cat([before.reshape(len(h) - 1, *images.shape), images[None]]), styles

    def latents(self, x_T: Tensor, times: Tensor | None = None) -> Tensor:
        """h at each of ``times`` (K - 1,) and at 1, (K, N, D), for noise (N, C, H, W)."""
        # All of an image follows from these few numbers: they are not worth rounding.
        with torch.autocast(x_T.device.type, enabled=False):
            return self.mapping(self.embedding(x_T.float()), times)

    def render(self, h: Tensor, noise: Sequence[Tensor] | str = "const") -> Tensor:
        """The images (N, C, H, W) of latents h(t) (N, D) at any t."""
        return self.synthesis.synthesis(self.synthesis.styles(h), noise)


def _build(module: dict | nn.Module) -> Any:
    return MODELS.build(module) if isinstance(module, dict) else module

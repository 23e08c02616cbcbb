"""The generator of StyleGAN2: mapping network, synthesis network, truncation and style mixing."""

from collections.abc import Callable

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ddgan.networks.stylegan2_layers import Architecture, Noise, StyleMapping
from ddgan.networks.stylegan2_synthesis import Synthesis
from ddgan.registry import MODELS

W_AVERAGE_DECAY = 0.995


@MODELS.register_module()
class StyleGAN2Generator(nn.Module):
    """Draw an image from a latent; it takes no time.

    ``image_size`` is a power of two from 8 to 1024; feature maps of size s have
    min(channel_base / s, max_channels) channels. ``num_mapping_layers=0`` makes the latent itself
    the style, scaled to a mean square of 1 if ``normalize_latent``. ``clamp`` bounds activations
    and the image, for half precision (256 is customary). Raises ValueError for sizes that do not
    fit.
    """

    w_average: Tensor

    def __init__(
        self,
        image_size: int = 32,
        image_channels: int = 3,
        latent_dim: int = 512,
        w_dim: int = 512,
        num_mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        normalize_latent: bool = True,
        architecture: Architecture = "skip",
        channel_base: int = 32768,
        max_channels: int = 512,
        use_noise: bool = True,
        clamp: float | None = None,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.data_shape = (image_channels, image_size, image_size)
        self.mapping = StyleMapping(
            latent_dim,
            w_dim,
            num_mapping_layers,
            lr_multiplier=mapping_lr_multiplier,
            normalize=normalize_latent,
        )
        self.synthesis = Synthesis(
            image_size,
            image_channels,
            w_dim,
            architecture=architecture,
            channel_base=channel_base,
            max_channels=max_channels,
            use_noise=use_noise,
            clamp=clamp,
        )
        self.num_ws = self.synthesis.num_ws
        self.register_buffer("w_average", torch.zeros(w_dim))

    def forward(
        self,
        latent: Tensor,
        truncation: float = 1.0,
        noise: Noise = "random",
        *,
        truncation_cutoff: int | None = None,
        mixing: tuple[Tensor, Tensor] | None = None,
        return_ws: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Unbounded images (N, C, H, W), and the styles (N, num_ws, w_dim) if asked.

        ``truncation`` ψ moves the first ``truncation_cutoff`` styles (all by default) towards the
        average of w, which forward passes in training mode track. ``noise`` is "random" (new per
        sample and pixel), "const" (one fixed map per layer), "none", or a tensor (N, 1, H, W) for
        each layer, of the shapes ``noise_shapes(image_size)``. ``mixing`` is a second
        latent (N, latent_dim) and the numbers (N,) of the styles from which on it is used.
        """
        ws = self.styles(latent)
        if self.training:
            self._track(ws[:, 0])
        if mixing is not None:
            other, crossing = mixing
            second = torch.arange(self.num_ws, device=ws.device) >= crossing[:, None]
            ws = torch.where(second[:, :, None], self.styles(other), ws)
        if truncation != 1:
            average = self.w_average.to(ws.dtype)
            cut = self.num_ws if truncation_cutoff is None else truncation_cutoff
            ws = torch.cat([average.lerp(ws[:, :cut], truncation), ws[:, cut:]], dim=1)
        images = self.synthesis(ws, noise)
        return (images, ws) if return_ws else images

    def styles(self, latent: Tensor) -> Tensor:
        """Map latents (N, latent_dim) to the same style for every layer, (N, num_ws, w_dim)."""
        if latent.ndim != 2 or latent.shape[1] != self.latent_dim:
            raise ValueError(
                f"the latent has shape {tuple(latent.shape)}; expected (N, {self.latent_dim})"
            )
        return self.mapping(latent)[:, None].expand(-1, self.num_ws, -1)

    @torch.no_grad()
    def _track(self, w: Tensor) -> None:
        mean = w.to(self.w_average.dtype).mean(dim=0)
        all_reduce(mean, op="mean")
        self.w_average.lerp_(mean, 1 - W_AVERAGE_DECAY)


def draw_crossing(uniform: Callable[[], Tensor], num_ws: int, probability: float) -> Tensor:
    """(N,) styles at which to change latents: {1, …, num_ws - 1}, or num_ws for never.

    Each sample mixes with the given probability (StyleGAN, Section 3.1). ``uniform`` draws (N,)
    numbers from U(0, 1), twice.
    """
    crossing = 1 + (uniform() * (num_ws - 1)).long()
    return torch.where(uniform() < probability, crossing, num_ws)

"""The straight path of SPI-GAN, from the end x_T of a forward SDE to the data x_0."""

import math

from torch import Tensor

SDES = ("vp", "subvp", "ve")


class StraightPath:
    """i(t) = t x_0 + (1 - t) x_T for t in [0, 1], x_T drawn in closed form (SPI-GAN, Eq. 7).

    Here t runs along the path: i(0) = x_T is noise and i(1) = x_0 is data. ``sde`` is the forward
    SDE (Song et al., 2021, App. B); only its end, at SDE time 1, is needed:

    - ``"vp"``, variance preserving, and ``"subvp"``, of lower variance: β(s) rises from
      ``beta_min`` to ``beta_max``;
    - ``"ve"``, variance exploding: σ(s) rises geometrically from ``sigma_min`` to ``sigma_max``.

    ``mean_coef`` and ``std`` give x_T = mean_coef x_0 + std ε; ``prior_std`` is the σ of the
    N(0, σ² I) from which sampling starts: 1, or ``sigma_max`` of "ve".
    """

    def __init__(
        self,
        sde: str = "vp",
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
    ):
        if sde not in SDES:
            raise ValueError(f"sde is {sde!r}; expected one of {[*SDES]}")
        if not (0 <= beta_min <= beta_max and beta_max > 0):
            raise ValueError(
                f"beta_min is {beta_min} and beta_max is {beta_max}; expected 0 <= beta_min <= "
                "beta_max, which is above 0"
            )
        if not 0 < sigma_min < sigma_max:
            raise ValueError(
                f"sigma_min is {sigma_min} and sigma_max {sigma_max}; expected 0 < sigma_min < "
                "sigma_max"
            )
        self.sde = sde
        if sde == "ve":
            self.mean_coef = 1.0
            self.std = math.sqrt(sigma_max**2 - sigma_min**2)
            self.prior_std = float(sigma_max)
            return
        # The integral of β over [0, 1]; x_0 decays by exp(-∫β / 2).
        integral = (beta_min + beta_max) / 2
        self.mean_coef = math.exp(-integral / 2)
        variance = -math.expm1(-integral)
        self.std = math.sqrt(variance) if sde == "vp" else variance
        self.prior_std = 1.0

    def x_T(self, x0: Tensor, noise: Tensor) -> Tensor:  # noqa: N802
        """Draw x_T ~ q(x_T | x_0) from standard normal ``noise`` of the shape of ``x0``."""
        return self.mean_coef * x0 + self.std * noise

    def interpolate(self, x0: Tensor, x_T: Tensor, t: Tensor | float) -> Tensor:
        """i(t) (Eq. 7) for one t in [0, 1], or for (B,) times, one per sample."""
        if isinstance(t, Tensor) and t.ndim:
            t = t.reshape(-1, *([1] * (x0.ndim - 1)))
        return t * x0 + (1 - t) * x_T

"""What a generator's output means: the three parametrizations of DDGAN, Sec. 5.2."""

from typing import Protocol

from torch import Tensor

from ddgan.diffusion.process import Diffusion


class Parametrization(Protocol):
    """Turns the output of a generator at (x_t, t) into a draw of x_{t-1}."""

    predicts_x0: bool

    def x_prev(
        self, diffusion: Diffusion, output: Tensor, x_t: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """Return x_{t-1} for the generator's ``output`` at (x_t, t) and standard normal noise."""

    def x0(self, diffusion: Diffusion, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 that ``output`` predicts; only where ``predicts_x0`` is true."""


class PosteriorOfX0:
    """The generator outputs x_0, and x_{t-1} is drawn from the posterior given it (Eq. 6)."""

    predicts_x0 = True

    def x_prev(
        self, diffusion: Diffusion, output: Tensor, x_t: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """Draw x_{t-1} ~ q(x_{t-1} | x_t, x_0 = output)."""
        return diffusion.posterior_sample(output, x_t, t, noise)

    def x0(self, diffusion: Diffusion, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the output, which is x_0."""
        return output


class DirectDenoising:
    """The generator outputs x_{t-1} itself; the posterior is not used."""

    predicts_x0 = False

    def x_prev(
        self, diffusion: Diffusion, output: Tensor, x_t: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """Return the output, which is x_{t-1}."""
        return output

    def x0(self, diffusion: Diffusion, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Refuse: between x_{t-1} and x_0 lie further steps."""
        raise ValueError(
            "direct denoising predicts x_{t-1}, not x_0; run the remaining steps to reach x_0"
        )


class NoiseGeneration:
    """The generator outputs the noise in x_t; x_{t-1} follows from Eq. 12."""

    predicts_x0 = True

    def x_prev(
        self, diffusion: Diffusion, output: Tensor, x_t: Tensor, t: Tensor, noise: Tensor
    ) -> Tensor:
        """Draw x_{t-1} from the posterior whose mean is Eq. 12."""
        mean = diffusion.posterior_mean_from_noise(x_t, t, output)
        return diffusion.add_posterior_noise(mean, t, noise)

    def x0(self, diffusion: Diffusion, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return x_0 from the noise (Eq. 13)."""
        return diffusion.predict_x0(x_t, t, output)


_PARAMETRIZATIONS: dict[str, type[Parametrization]] = {
    "posterior": PosteriorOfX0,
    "direct": DirectDenoising,
    "noise": NoiseGeneration,
}


def get_parametrization(name: str) -> Parametrization:
    """Return the parametrization called ``"posterior"``, ``"direct"`` or ``"noise"``."""
    if name not in _PARAMETRIZATIONS:
        raise ValueError(f"parametrization is {name!r}; expected one of {[*_PARAMETRIZATIONS]}")
    return _PARAMETRIZATIONS[name]()

"""What a generator's output at (x_t, t) means: the three parametrizations of DDGAN, Sec. 5.2.

Each is a pair of functions: ``x_prev`` draws x_{t-1} from the output and standard normal noise,
``x0`` draws x_0 from the output, where ``step(x_t, t)`` draws x_{t-1} of a following step.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ddgan.diffusion.process import Diffusion
from ddgan.diffusion.sampling import Step, ancestral

Time = Tensor | int


class Parametrization(NamedTuple):
    """How x_{t-1} and x_0 follow from a generator's output."""

    x_prev: Callable[[Diffusion, Tensor, Tensor, Time, Tensor], Tensor]
    x0: Callable[[Diffusion, Tensor, Tensor, int, Step], Tensor]


def posterior_x_prev(d: Diffusion, output: Tensor, x_t: Tensor, t: Time, noise: Tensor) -> Tensor:
    """x_{t-1} ~ q(x_{t-1} | x_t, x_0 = output) (Eq. 6)."""
    return d.posterior_sample(output, x_t, t, noise)


def posterior_x0(d: Diffusion, output: Tensor, x_t: Tensor, t: int, step: Step) -> Tensor:
    """The output, which is x_0."""
    return output


def direct_x_prev(d: Diffusion, output: Tensor, x_t: Tensor, t: Time, noise: Tensor) -> Tensor:
    """The output, which is x_{t-1}: the posterior is not used."""
    return output


def direct_x0(d: Diffusion, output: Tensor, x_t: Tensor, t: int, step: Step) -> Tensor:
    """x_0 by the steps that remain from x_{t-1} = output."""
    return ancestral(step, output, t - 1)


def noise_x_prev(d: Diffusion, output: Tensor, x_t: Tensor, t: Time, noise: Tensor) -> Tensor:
    """x_{t-1} from the posterior whose mean Eq. 12 gives, where the output is the noise in x_t."""
    return d.add_posterior_noise(d.posterior_mean_from_noise(x_t, t, output), t, noise)


def noise_x0(d: Diffusion, output: Tensor, x_t: Tensor, t: int, step: Step) -> Tensor:
    """x_0 from the noise in x_t (Eq. 13)."""
    return d.predict_x0(x_t, t, output)


PARAMETRIZATIONS = {
    "posterior": Parametrization(posterior_x_prev, posterior_x0),
    "direct": Parametrization(direct_x_prev, direct_x0),
    "noise": Parametrization(noise_x_prev, noise_x0),
}


def get_parametrization(name: str) -> Parametrization:
    """The parametrization ``"posterior"``, ``"direct"`` or ``"noise"``."""
    if name not in PARAMETRIZATIONS:
        raise ValueError(f"parametrization is {name!r}; expected one of {[*PARAMETRIZATIONS]}")
    return PARAMETRIZATIONS[name]

"""The mathematics of diffusion: schedules, forward process, posterior and sampling.

Time runs over ``t ∈ {1, …, T}`` and ``x_0`` is data, as in the papers. Every function here takes
that ``t``. The networks take the 0-based index ``t - 1``, as the released weights expect:
``time_index`` computes it where a model calls its network.
"""

from ddgan.diffusion.ddim import ddim_step, heun_step, sub_steps
from ddgan.diffusion.noise import SampleNoise
from ddgan.diffusion.parametrization import Parametrization, get_parametrization
from ddgan.diffusion.process import Diffusion
from ddgan.diffusion.sampling import ancestral, time_index
from ddgan.diffusion.schedules import geometric_betas, linear_betas, vp_betas, vp_variance
from ddgan.diffusion.straight_path import StraightPath

__all__ = [
    "Diffusion",
    "Parametrization",
    "SampleNoise",
    "StraightPath",
    "ancestral",
    "ddim_step",
    "geometric_betas",
    "get_parametrization",
    "heun_step",
    "linear_betas",
    "sub_steps",
    "time_index",
    "vp_betas",
    "vp_variance",
]

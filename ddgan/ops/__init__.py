"""The memory-bound operations of the networks, each a function with a PyTorch reference."""

from ddgan.ops.ada_group_norm import ada_group_norm
from ddgan.ops.bias_leaky_relu import fused_bias_leaky_relu
from ddgan.ops.fir import conv_downsample2d, downsample2d, upfirdn2d, upsample2d

__all__ = [
    "ada_group_norm",
    "conv_downsample2d",
    "downsample2d",
    "fused_bias_leaky_relu",
    "upfirdn2d",
    "upsample2d",
]

"""The networks' operations: compiled where that is built and faster, plain PyTorch elsewhere."""

from ddgan.ops.ada_group_norm import ada_group_norm
from ddgan.ops.backend import backend, current_backend
from ddgan.ops.bias_leaky_relu import fused_bias_leaky_relu
from ddgan.ops.conv import same_conv2d
from ddgan.ops.upfirdn2d import conv_downsample2d, downsample2d, upfirdn2d, upsample2d

__all__ = [
    "ada_group_norm",
    "backend",
    "conv_downsample2d",
    "current_backend",
    "downsample2d",
    "fused_bias_leaky_relu",
    "same_conv2d",
    "upfirdn2d",
    "upsample2d",
]

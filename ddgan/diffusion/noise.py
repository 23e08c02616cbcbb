"""Normal noise that depends on (seed, sample index, stream) alone.

A counter-based generator (Philox-4x32-10; Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", 2011) computes any part of any sample's noise directly. Noise therefore does not change
with the batch size, the number of processes or the device, and none is drawn on the host.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> list[Tensor]:
    """The four 32-bit words of Philox-4x32-10 for each counter, as int64 tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The signed 64-bit product wraps, yet its bits are those of the unsigned product.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _KEY_INCREMENTS[0]) & _MASK, (k1 + _KEY_INCREMENTS[1]) & _MASK
    return [c0, c1, c2, c3]


class SampleNoise:
    """The noise of the samples with the given indices, as named streams of standard normals."""

    def __init__(self, seed: int, indices: Tensor, first_stream: int = 0):
        """Take a ``seed`` of up to 64 bits and the (B,) non-negative integer sample indices.

        Streams are counted from ``first_stream``. Raises ValueError for another seed.
        """
        if not 0 <= seed < 2**64:
            raise ValueError(f"the seed is {seed}; expected a number from 0 to 2**64 - 1")
        self.seed = seed
        self.indices = indices.to(torch.int64)
        self.first_stream = first_stream

    def __len__(self) -> int:
        return len(self.indices)

    def normal(self, stream: int, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) float32 standard normals of one stream, a number below 2^32."""
        count = math.prod(shape)
        blocks = torch.arange((count + 3) // 4, device=self.indices.device)
        low, high = self.indices & _MASK, (self.indices >> 32) & _MASK
        zero = torch.zeros_like(low[:, None] + blocks)
        streams = zero + (self.first_stream + stream)
        counter = (zero + blocks, streams, zero + low[:, None], zero + high[:, None])
        key = (self.seed & _MASK, self.seed >> 32)
        words = torch.stack(philox(counter, key))
        # Box-Muller on (0, 1] x (0, 1], in float64 so that every device rounds to the same float32.
        u = (words.to(torch.float64) + 1) * 2.0**-32
        radius = torch.sqrt(-2 * torch.log(u[:2]))
        angle = 2 * math.pi * u[2:]
        normals = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])
        flat = normals.permute(1, 2, 0).flatten(1)[:, :count]
        return flat.to(torch.float32).reshape(len(self), *shape)

    def normals(self, stream: int, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Standard normals (B, *shape) of each shape, from one stream.

        For small images the number of draws is what takes time.
        """
        counts = [math.prod(shape) for shape in shapes]
        parts = self.normal(stream, (sum(counts),)).split(counts, dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

"""Moving pixels by matrices: exactly between pixels' centres, or by resampling; and colours."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ddgan.ops import upfirdn2d

TAPS = 12


def _low_pass() -> tuple[float, ...]:
    """Return a filter that halves the band: a sinc under a Kaiser window, with sum 1.

    Unlike the wavelet of the publication it is symmetric: an image and its mirror image are
    treated alike, and the extension beyond the edges stays symmetric when upsampled.
    """
    position = torch.arange(TAPS, dtype=torch.float64) - (TAPS - 1) / 2
    window = torch.kaiser_window(TAPS, periodic=False, beta=4.0, dtype=torch.float64)
    taps = torch.sinc(position / 2) * window
    return tuple((taps / taps.sum()).tolist())


LOW_PASS = _low_pass()


def _mirrored(index: Tensor, size: int) -> Tensor:
    """Map any integer to {0, …, size - 1} by reflection at the outer edges of the image."""
    index = index.remainder(2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def _old_positions(matrices: Tensor, ys: Tensor, xs: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y, each (N, H, W), of the positions (xs, ys) times the matrices."""
    # Written out, as a GPU may round the factors of a matrix product to 10 bits.
    m = matrices[..., None, None]
    return tuple(m[:, i, 0] * xs + m[:, i, 1] * ys[:, None] + m[:, i, 2] for i in range(2))


def _centred(count: int, like: Tensor) -> Tensor:
    """Return ``count`` numbers at distance 1 with mean 0."""
    return torch.arange(count, device=like.device, dtype=like.dtype) - (count - 1) / 2


def permute_pixels(x: Tensor, matrices: Tensor) -> Tensor:
    """Look every pixel of square images (N, C, S, S) up at its position times (N, 3, 3).

    The matrices must map pixels' centres to pixels' centres. Beyond the edges the image is
    reflected.
    """
    n, channels, size, _ = x.shape
    line = _centred(size, matrices)
    column, row = (
        _mirrored((old + (size - 1) / 2).round().long(), size)
        for old in _old_positions(matrices, line, line)
    )
    index = (row * size + column).reshape(n, 1, -1).expand(-1, channels, -1)
    return x.flatten(2).gather(2, index).reshape(x.shape)


def warp(x: Tensor, matrices: Tensor) -> Tensor:
    """Resample images (N, C, H, W) at their pixels' positions times (N, 3, 3).

    The image is upsampled twofold with a low-pass filter, interpolated linearly at twice the
    resolution and downsampled with the same filter, as is published. Beyond the edges the image
    is reflected. Twice differentiable with respect to ``x``.
    """
    height, width = x.shape[2:]
    pad = TAPS // 4
    rows, columns = (
        _mirrored(torch.arange(-pad, n + pad, device=x.device), n) for n in (height, width)
    )
    x = x.index_select(2, rows).index_select(3, columns)
    # Only the pixels whose filter lies inside the padded image: exactly twice its size.
    x = upfirdn2d(x, LOW_PASS, up=2, padding=(0, -1), gain=4)

    # The filter on the way down needs TAPS / 2 - 1 more pixels on each side.
    ys, xs = (_centred(2 * n + TAPS - 2, matrices) / 2 for n in (height, width))
    old_x, old_y = _old_positions(matrices, ys, xs)
    grid = torch.stack([old_x * (2 / width), old_y * (2 / height)], dim=3)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return upfirdn2d(x, LOW_PASS, down=2)


def recolour(x: Tensor, matrices: Tensor) -> Tensor:
    """Apply (N, 4, 4) colour matrices to images (N, 3, H, W), or to the greys of (N, 1, H, W)."""
    linear, offset = matrices[:, :3, :3], matrices[:, :3, 3:]
    if x.shape[1] == 1:
        # What becomes of the luma of a grey pixel.
        linear = linear.sum(dim=(1, 2), keepdim=True) / 3
        offset = offset.mean(dim=1, keepdim=True)
    return torch.baddbmm(offset, linear, x.flatten(2)).reshape(x.shape)

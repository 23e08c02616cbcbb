"""Filters of orthogonal wavelets, from their definition."""

import itertools
import math

import numpy as np


def symlet(vanishing_moments: int) -> np.ndarray:
    """Low-pass filter (2 n,) of the Symlet with n vanishing moments, float64, with sum √2.

    Of all orthogonal filters of that length with n zeros at the Nyquist frequency it is the least
    asymmetric (Daubechies, "Ten lectures on wavelets", 1992, Sec. 6.4 and 8.1). Of the two that
    are each other's mirror image, it is the one in which the zero with the largest coordinate y is
    kept inside the unit circle.
    """
    n = vanishing_moments
    # |H(ω)|² = 2 cos²ⁿ(ω/2) P(sin²(ω/2)) with P(y) = Σ_k C(n - 1 + k, k) yᵏ, k < n.
    roots = np.roots([math.comb(n - 1 + k, k) for k in reversed(range(n))])
    # One root of each conjugate pair, in an order that rounding does not change.
    pairs = sorted((y for y in roots if y.imag > -1e-9), key=lambda y: -y.real)
    # y = (2 - z - 1/z) / 4: each y gives two zeros, z and 1/z; H takes one.
    zeros = [sorted(np.roots([1, 4 * y - 2, 1]), key=abs) for y in pairs]
    filters = [_filter(n, choice) for choice in itertools.product(*zeros)]
    # max takes the first of equals; the mirror image comes after.
    return max(filters, key=lambda h: round(_symmetry(h), 9))


def _filter(n: int, zeros: tuple[complex, ...]) -> np.ndarray:
    every: list[complex] = [-1.0] * n
    for z in zeros:
        every += [z.real] if abs(z.imag) < 1e-9 else [z, z.conjugate()]
    taps = np.poly(every).real
    return taps * (math.sqrt(2) / taps.sum())


def _symmetry(h: np.ndarray) -> float:
    """1 for a symmetric filter: its largest correlation with its mirror image."""
    return float(np.convolve(h, h).max() / (h @ h))

"""Integer frequency tables of Gaussians, computed with integers alone so that every machine has the same ones."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from math import isqrt

import numpy as np

# fmt: off
SCALES = (
    7209, 8153, 9221, 10428, 11793, 13338, 15084, 17060,
    19293, 21820, 24677, 27908, 31563, 35696, 40370, 45657,
    51635, 58397, 66043, 74691, 84472, 95533, 108043, 122191,
    138191, 156287, 176752, 199897, 226073, 255677, 289157, 327021,
    369843, 418272, 473044, 534987, 605042, 684270, 773872, 875208,
    989814, 1119426, 1266011, 1431791, 1619278, 1831317, 2071121, 2342327,
    2649047, 2995930, 3388236, 3831913, 4333688, 4901169, 5542960, 6268790,
    7089666, 8018032, 9067964, 10255381, 11598287, 13117040, 14834670, 16777216,
)
# fmt: on
"""64 scales in units of 1/65536, log-spaced from 0.11 to 256 (the table of arXiv:1802.01436's implementations)."""

EDGES = tuple(isqrt(low * high) for low, high in pairwise(SCALES))
"""Borders between neighbouring scales, their geometric means, in units of 1/65536."""

_BITS = 96
_TAIL = 6.2
"""Tables reach this many scales to each side; the rest is the escape."""


def _erf(x: int) -> int:
    """erf(x / 2**_BITS) * 2**_BITS for x >= 0, by its Maclaurin series in fixed point."""
    square = x * x >> _BITS
    power, n, total = x, 0, 0
    while power:
        total += (-power if n % 2 else power) // (2 * n + 1)
        n += 1
        power = (power * square >> _BITS) // n
    return total * 2 * _INVERSE_ROOT_PI >> _BITS


def _isqrt_ratio(numerator: int, denominator: int) -> int:
    """sqrt(numerator / denominator) * 2**_BITS."""
    return isqrt((numerator << 2 * _BITS) // denominator)


def _pi() -> int:
    """pi * 2**_BITS by Machin's formula."""

    def arctan_inverse(n: int) -> int:
        term = (1 << _BITS + 16) // n
        total, k = term, 1
        while term:
            term //= n * n
            k += 2
            total += (-term if k % 4 == 3 else term) // k
        return total

    return 4 * (4 * arctan_inverse(5) - arctan_inverse(239)) >> 16


_INVERSE_ROOT_PI = _isqrt_ratio(1 << _BITS, _pi())


def normal_below(i: int, steps: int, bits: int) -> int:
    """P(X < i / steps) * 2**bits, rounded, for a standard normal X and |i / steps| up to 8."""
    half = 1 << _BITS - 1
    mass = _erf(abs(i) * _isqrt_ratio(1, 2) // steps) // 2
    return (half + (mass if i >= 0 else -mass) + (1 << _BITS - bits - 1)) >> _BITS - bits


@lru_cache(maxsize=len(SCALES))
def gaussian_frequencies(index: int) -> tuple[int, np.ndarray]:
    """First integer and frequencies [S] int64 of the table for `SCALES[index]`; the last entry is the escape.

    Entry k is the Gaussian's mass on [first + k - 1/2, first + k + 1/2].
    """
    import torch

    from obverse.distributions import table_frequencies

    scale = SCALES[index]
    reach = max(1, int(scale * _TAIL) >> 16)
    unit = _isqrt_ratio(1, 2) * 65536 // scale  # 1 / (scale * sqrt(2))
    one = 1 << _BITS
    cumulative = [_erf(unit * (2 * k + 1) // 2) for k in range(reach + 1)]
    half = [cumulative[0]] + [(b - a) // 2 for a, b in pairwise(cumulative)]
    weights = [*reversed(half[1:]), *half, one - cumulative[-1]]
    rows = torch.tensor([max(w, 0) >> (_BITS - 36) for w in weights], dtype=torch.int64)
    return -reach, table_frequencies(rows)

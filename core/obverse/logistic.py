"""Integer frequency tables of logistic distributions, made with decimals so that every machine has the same ones."""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from functools import lru_cache
from itertools import pairwise

import numpy as np

from obverse.gaussian import SCALES

_TAIL = 14
"""Tables reach at least this many scales to each side; the rest, at most 2 * exp(-14) of the mass, is the escape."""

_BITS = 36
_DECIMAL = Context(prec=40)


@lru_cache(maxsize=len(SCALES))
def logistic_frequencies(index: int) -> tuple[int, np.ndarray]:
    """First integer and frequencies [S] int64 of the table for `obverse.gaussian.SCALES[index]`.

    Entry k is the mass of sigmoid(x / scale) on [first + k - 1/2, first + k + 1/2]; the last entry is the escape.
    """
    import torch

    from obverse.distributions import table_frequencies

    reach = 1 + (SCALES[index] * _TAIL >> 16)
    with localcontext(_DECIMAL):
        scale = Decimal(SCALES[index]) / 65536
        step, power = (-1 / scale).exp(), (Decimal("-0.5") / scale).exp()
        above = []  # the mass above k + 1/2
        for _ in range(reach + 1):
            above.append(power / (1 + power))
            power *= step
        half = [a - b for a, b in pairwise(above)]
        masses = [*reversed(half), 1 - 2 * above[0], *half, 2 * above[-1]]
        weights = [int(mass * 2**_BITS) for mass in masses]
    return -reach, table_frequencies(torch.tensor(weights, dtype=torch.int64))

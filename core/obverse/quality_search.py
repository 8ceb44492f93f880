"""The highest quality whose file is within a size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from obverse.errors import RateError

Made = TypeVar("Made")


def highest_within(
    make: Callable[[int], Made], size: Callable[[Made], int], limit: int, qualities: Sequence[int]
) -> Made:
    """What is made at the highest quality that is within a limit, found by bisection: at most 4 of 8 are made.

    Sizes are taken to rise with the quality. Where they do not, what is returned is still within the limit, if not the
    highest.

    Args:
        make: makes one of a quality.
        size: its size in bytes.
        limit: bytes that are allowed.
        qualities: from small files to large ones. Of the first, one is made where none is within the limit.

    Raises:
        RateError: none that was made is within the limit; the message has the smallest size.
    """
    best: Made | None = None
    smallest: float = math.inf
    low, high = 0, len(qualities)
    while low < high:
        middle = (low + high) // 2
        made = make(qualities[middle])
        smallest = min(smallest, size(made))
        if size(made) <= limit:
            best, low = made, middle + 1
        else:
            high = middle
    if best is None:
        raise RateError(f"the picture does not fit in {limit} bytes: the smallest size reached is {smallest} bytes")
    return best

"""Integer tables of Gaussians, against the formula in floating point."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from obverse.distributions import TOTAL, IntegerGaussian
from obverse.gaussian import SCALES, gaussian_frequencies

TABLES = "2a445ec7d0a8b7a72008c92e52200ce0bbf9a0f6fa3b385ebce975a623f273b9"
"""SHA-256 over all tables: first integer and frequencies as little-endian int64. It changes with the format only."""


def mass(value: int, scale: float) -> float:
    """The Gaussian on [value - 1/2, value + 1/2], by complements, which stay accurate in the tails."""
    low, high = ((abs(value) + side) / (scale * math.sqrt(2)) for side in (-0.5, 0.5))
    return (math.erfc(low) - math.erfc(high)) / 2


def test_scales_follow_the_formula() -> None:
    low, high = math.log(0.11), math.log(256)
    expected = [round(65536 * math.exp(low + (high - low) * i / 63)) for i in range(64)]
    assert list(SCALES) == expected


@pytest.mark.parametrize("index", range(64))
def test_tables_are_the_gaussian(index: int) -> None:
    first, frequencies = gaussian_frequencies(index)
    scale = SCALES[index] / 65536
    assert frequencies.dtype == np.int64
    assert frequencies.sum() == TOTAL
    assert frequencies.min() >= 1
    assert len(frequencies) == 2 * -first + 2
    values = np.arange(first, -first + 1)
    assert frequencies[:-1].tolist() == frequencies[:-1][::-1].tolist()
    # Each symbol has one count of its own; the rest is shared by mass, rounded down, the remainder on the peak.
    outside = math.erfc((0.5 - first) / (scale * math.sqrt(2)))
    escape = max(outside, 2**-16)
    rest = (TOTAL - len(frequencies)) / (1 - outside + escape)
    expected = np.array([1 + mass(int(v), scale) * rest for v in values])
    difference = frequencies[:-1] - expected
    peak = values == 0
    assert (np.abs(difference[~peak]) <= 1 + 2**-10 + 1e-6 * expected[~peak]).all()
    assert 0 <= difference[peak][0] + 1 <= len(frequencies) + 2
    assert frequencies[-1] == pytest.approx(1 + escape * rest, abs=1)


def test_tables_are_the_same_everywhere() -> None:
    digest = hashlib.sha256()
    for index in range(64):
        first, frequencies = gaussian_frequencies(index)
        digest.update(np.array([first, *frequencies], dtype="<i8").tobytes())
    assert digest.hexdigest() == TABLES


def test_index_is_the_smallest_scale_that_is_not_below() -> None:
    scales = torch.tensor(SCALES, dtype=torch.float64) / 65536
    assert IntegerGaussian.index(scales).tolist() == list(range(64))
    ratio = float(scales[1] / scales[0]) ** 0.5
    assert IntegerGaussian.index(scales * (ratio * 0.999)).tolist() == list(range(64))
    assert IntegerGaussian.index(scales * (ratio * 1.001)).tolist() == [*range(1, 64), 63]
    assert IntegerGaussian.index(torch.tensor([0.0, 1e-9, 1e9])).tolist() == [0, 0, 63]

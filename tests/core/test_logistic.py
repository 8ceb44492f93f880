"""Integer tables of logistic distributions, against the formula in floating point."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from obverse.coders.range import RangeCoder
from obverse.distributions import TOTAL, IntegerLogistic
from obverse.gaussian import SCALES
from obverse.logistic import logistic_frequencies

TABLES = "e80c5da3919ef5f1f7bef5f6e4fd9e1ce51d4575b0ecb09866b5f6cb2e236ba7"
"""SHA-256 over all tables: first integer and frequencies as little-endian int64. It changes with the format only."""


def mass(value: int, scale: float) -> float:
    """The logistic density over [value - 1/2, value + 1/2]: sinh(h) / (cosh(x) + cosh(h)), accurate in the tails."""
    half = 0.5 / scale
    # Divided by exp(|x|), which overflows where the mass does not matter any more.
    x = abs(value) / scale
    denominator = (1 + math.exp(-2 * x)) / 2 + (math.exp(half - x) + math.exp(-half - x)) / 2
    return (math.exp(half - x) - math.exp(-half - x)) / 2 / denominator


def test_mass_is_the_density_integrated() -> None:
    """By Simpson's rule."""
    scale, steps = 0.7, 2000
    for value in (0, 1, -3):
        points = np.linspace(value - 0.5, value + 0.5, steps + 1) / scale
        density = 1 / (4 * scale * np.cosh(points / 2) ** 2)
        weights = np.where(np.arange(steps + 1) % 2, 4, 2)
        weights[[0, -1]] = 1
        assert mass(value, scale) == pytest.approx(float(density @ weights) / (3 * steps), rel=1e-9)


@pytest.mark.parametrize("index", range(64))
def test_tables_are_the_logistic(index: int) -> None:
    first, frequencies = logistic_frequencies(index)
    scale = SCALES[index] / 65536
    assert frequencies.dtype == np.int64
    assert frequencies.sum() == TOTAL
    assert frequencies.min() >= 1
    assert len(frequencies) == 2 * -first + 2
    assert frequencies[:-1].tolist() == frequencies[:-1][::-1].tolist()
    values = np.arange(first, -first + 1)
    # Each symbol has one count of its own; the rest is shared by mass, rounded down, the remainder on the peak.
    outside = 2 / (1 + math.exp((0.5 - first) / scale))
    escape = max(outside, 2**-16)
    rest = (TOTAL - len(frequencies)) / (1 - outside + escape)
    expected = np.array([1 + mass(int(v), scale) * rest for v in values])
    difference = frequencies[:-1] - expected
    peak = values == 0
    assert (np.abs(difference[~peak]) <= 1 + 2**-12 + 1e-6 * expected[~peak]).all()
    assert 0 <= difference[peak][0] + 1 <= len(frequencies) + 2
    assert frequencies[-1] == pytest.approx(1 + escape * rest, abs=1)
    assert outside <= 2 * math.exp(-14)


def test_tables_are_the_same_everywhere() -> None:
    digest = hashlib.sha256()
    for index in range(64):
        first, frequencies = logistic_frequencies(index)
        digest.update(np.array([first, *frequencies], dtype="<i8").tobytes())
    assert digest.hexdigest() == TABLES


def test_round_trip() -> None:
    generator = torch.Generator().manual_seed(0)
    distribution = IntegerLogistic(torch.arange(64).expand(3, 50, 64))
    symbols = distribution.sample(generator, 1.0, 0, 1.0)
    symbols[0, 0], symbols[1, 1] = 100_000, -70_000  # beyond every table
    encoder = RangeCoder().encoder()
    encoder.put(symbols, distribution)
    data = encoder.finish()
    assert torch.equal(RangeCoder().decoder(data).take(distribution), symbols)
    assert len(data) <= encoder.bits / 8 + 8


def test_bits_are_near_the_entropy() -> None:
    """ln(scale) + 2 nats where the scale is large."""
    count = 4000
    distribution = IntegerLogistic(torch.full((1, count), 50))
    symbols = distribution.sample(torch.Generator().manual_seed(0), 1.0, 0, 1.0)
    encoder = RangeCoder().encoder()
    encoder.put(symbols, distribution)
    encoder.finish()
    assert encoder.bits / count == pytest.approx((math.log(SCALES[50] / 65536) + 2) / math.log(2), rel=0.01)


def test_samples_have_the_spread_of_the_distribution() -> None:
    distribution = IntegerLogistic(torch.full((1, 4000), 50))
    samples = distribution.sample(torch.Generator().manual_seed(0), 1.0, 0, 1.0).double()
    assert samples.std().item() == pytest.approx(SCALES[50] / 65536 * math.pi / math.sqrt(3), rel=0.05)

"""Factorized densities and their integer tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from obverse.coders.range import RangeCoder
from obverse.distributions import TOTAL, FactorizedTable
from obverse.exact import convert
from obverse.nn.density import FactorizedDensity


def density(gates: int | None = None, spread: float = 4) -> FactorizedDensity:
    torch.manual_seed(0)
    made = FactorizedDensity(6, gates=gates, initial_scale=spread).double()
    with torch.no_grad():
        for factor in made.factors:
            factor.uniform_(-0.5, 0.5)
        made.medians.uniform_(-3, 3)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("gates", [None, 5])
def test_masses_of_all_integers_sum_to_one(gates: int | None) -> None:
    values = torch.arange(-2000, 2001).double().expand(1, 6, -1)
    total = density(gates).likelihood(values).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)


def test_tables_are_the_density() -> None:
    made = density()
    for channel, (first, frequencies) in enumerate(made.tables()):
        symbols = torch.arange(first, first + len(frequencies) - 1).double()
        values = (symbols + made.medians[channel]).expand(1, 6, -1)
        expected = made.likelihood(values)[0, channel].numpy()
        assert frequencies.sum() == TOTAL
        np.testing.assert_allclose(frequencies[:-1] / TOTAL, expected, atol=1e-5)
        assert frequencies[-1] / TOTAL < 1e-4


def test_tables_do_not_depend_on_the_arithmetic_of_the_module() -> None:
    made = density().float()
    ours = made.tables()
    for other in (made.double(), convert(made)):
        for (first, frequencies), (theirs, counts) in zip(ours, other.tables(), strict=True):
            assert first == theirs
            assert np.array_equal(frequencies, counts)


def test_tables_follow_training() -> None:
    made = density()
    before = made.tables()
    assert made.tables() is before
    made.train().biases[0].add_(1)
    made.eval()
    assert any(not np.array_equal(a, b) for (_, a), (_, b) in zip(before, made.tables(), strict=True))


def test_far_values_are_escaped() -> None:
    tables = density(spread=0.5).tables()
    distribution = FactorizedTable.grid(tables, 1, 1, 3)
    symbols = torch.tensor([0, 100_000, -70_000]).expand(1, 6, 1, 3)
    encoder = RangeCoder().encoder()
    encoder.put(symbols, distribution)
    assert torch.equal(RangeCoder().decoder(encoder.finish()).take(distribution), symbols)


def test_a_density_can_be_wider_than_any_table() -> None:
    wide = density(spread=20000)
    first, frequencies = wide.tables()[0]
    assert first >= -4096
    assert len(frequencies) <= 2 * 4096 + 2

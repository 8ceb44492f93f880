"""From logits and scales to integers, and back to symbols."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from obverse.coders.range import RangeCoder
from obverse.distributions import (
    LOGIT_STEPS,
    TOTAL,
    Categorical,
    Distribution,
    FactorizedTable,
    IntegerGaussian,
    IntegerLogistic,
    exponential_table,
    frequencies_from_weights,
    to_grid,
)
from obverse.gaussian import EDGES, SCALES, gaussian_frequencies
from obverse.guarded import GuardedCategorical, GuardedGaussian
from obverse.testing import recorded


def there_and_back(symbols: torch.Tensor, distribution: Distribution) -> torch.Tensor:
    encoder = RangeCoder().encoder()
    encoder.put(symbols, distribution)
    return RangeCoder().decoder(encoder.finish()).take(distribution)


def test_exponential_table_is_the_exponential() -> None:
    table = exponential_table()
    expected = [max(1, round(2**30 * math.exp(-k / LOGIT_STEPS))) for k in range(len(table))]
    assert (table - torch.tensor(expected)).abs().max() <= 0
    assert table[0] == 2**30
    assert table[-1] == 1
    assert 20 * LOGIT_STEPS < len(table) < 24 * LOGIT_STEPS


@given(st.lists(st.integers(0, 2**39), min_size=2, max_size=40).filter(any))
def test_frequencies_share_the_total(weights: list[int]) -> None:
    frequencies = frequencies_from_weights(torch.tensor([weights]))[0].tolist()
    assert sum(frequencies) == TOTAL
    assert min(frequencies) >= 1
    largest = weights.index(max(weights))
    free = TOTAL - len(weights)
    for index, (frequency, weight) in enumerate(zip(frequencies, weights, strict=True)):
        exact = 1 + weight * free // sum(weights)
        assert exact <= frequency <= exact + (len(weights) if index == largest else 0)


@given(st.integers(2, 2**16), st.integers(0, 2**32))
@settings(max_examples=30)
def test_frequencies_of_large_alphabets(size: int, seed: int) -> None:
    weights = torch.randint(0, 2**39 + 1, (1, size), generator=torch.Generator().manual_seed(seed))
    weights[0, 0] = 2**39
    frequencies = frequencies_from_weights(weights)
    assert int(frequencies.sum()) == TOTAL
    assert int(frequencies.min()) >= 1


def test_rows_of_frequencies_are_independent() -> None:
    weights = torch.randint(0, 1000, (5, 4, 7), generator=torch.Generator().manual_seed(0)) + 1
    together = frequencies_from_weights(weights)
    for i in range(5):
        assert torch.equal(together[i], frequencies_from_weights(weights[i]))


@pytest.mark.parametrize("size", [2, 3, 4, 5, 63, 64, 65, 1000, 4096, 64000, 2**17 + 1, 2**20])
def test_categorical_comes_back(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    count = 3 if size > 70000 else 12
    logits = torch.randint(-60, 60, (2, count, size), generator=generator).int()
    tokens = torch.randint(size, (2, count), generator=generator)
    tokens[0, 0], tokens[-1, -1] = 0, size - 1
    assert torch.equal(there_and_back(tokens, Categorical(logits)), tokens)


@pytest.mark.parametrize("size", [2, 1000, 2**20])
def test_uniform_logits_cost_the_logarithm_of_the_alphabet(size: int) -> None:
    from obverse.coders.ideal import IdealEncoder

    logits = torch.zeros(1, 1, 1, dtype=torch.int32).expand(1, 4, size)
    encoder = IdealEncoder()
    encoder.put(torch.tensor([[0, 1, size // 2, size - 1]]), Categorical(logits))
    assert encoder.bits == pytest.approx(4 * math.log2(size), rel=1e-2)


def test_extreme_logits() -> None:
    logits = torch.tensor([[[2**30, -(2**30), 0, 0]]], dtype=torch.int32)
    for token in range(4):
        tokens = torch.tensor([[token]])
        assert torch.equal(there_and_back(tokens, Categorical(logits)), tokens)


def test_to_grid() -> None:
    values = torch.tensor([0.0, 0.06, 0.07, -1.0, 1e30, -math.inf], dtype=torch.float64)
    assert to_grid(values).tolist() == [0, 0, 1, -8, 2**30, -(2**30)]
    assert to_grid(values).dtype == torch.int32


def distributions() -> dict[str, Distribution]:
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(0, 40, (3, 10), generator=generator)
    tables = [gaussian_frequencies(index) for index in range(20, 60)]
    return {
        "categorical": Categorical(torch.randint(-30, 30, (3, 10, 25), generator=generator).int()),
        "gaussian": IntegerGaussian(indices),
        "logistic": IntegerLogistic(indices),
        "factorized": FactorizedTable(indices, tables),
        "guarded-categorical": GuardedCategorical(torch.randn(3, 10, 25, generator=generator).double() * 3),
        "guarded-gaussian": GuardedGaussian(torch.rand(3, 10, generator=generator).double() * 20 + 0.1),
    }


NAMES = sorted(distributions())


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_parts(name: str) -> None:
    whole = distributions()[name]
    symbols = whole.sample(torch.Generator().manual_seed(1), 1.0, 0, 1.0)
    rows = whole.rows(1, 3)
    assert rows.shape == (2, 10)
    columns = torch.tensor([7, 2, 2])
    some = rows.select(columns)
    assert some.shape == (2, 3)
    for i in range(2):
        for j, column in enumerate(columns.tolist()):
            one = whole.rows(i + 1, i + 2).select(torch.tensor([column]))
            part = some.rows(i, i + 1).select(torch.tensor([j]))
            symbol = symbols[i + 1 : i + 2, column : column + 1]
            assert recorded(one, symbol) == recorded(part, symbol)
    regrouped = whole.regroup(1)
    assert regrouped.shape == (1, 30)
    assert recorded(regrouped, symbols.reshape(1, 30)) == recorded(whole, symbols)


@pytest.mark.parametrize("name", NAMES)
def test_samples_come_back(name: str) -> None:
    distribution = distributions()[name]
    for seed in range(5):
        symbols = distribution.sample(torch.Generator().manual_seed(seed), 2.0, 0, 1.0)
        assert torch.equal(there_and_back(symbols, distribution), symbols)


@pytest.mark.parametrize("name", NAMES)
def test_empty_blocks_write_nothing(name: str) -> None:
    empty = distributions()[name].select(torch.tensor([], dtype=torch.int64))
    symbols = torch.zeros(3, 0, dtype=torch.int64)
    assert recorded(empty, symbols) == []
    assert torch.equal(there_and_back(symbols, empty), symbols)


@given(
    st.lists(st.tuples(st.integers(0, 63), st.integers(-(2**28), 2**28)), min_size=1, max_size=20),
    st.booleans(),
)
def test_any_integer_comes_back(pairs: list[tuple[int, int]], small: bool) -> None:
    indices = torch.tensor([[index for index, _ in pairs]])
    values = torch.tensor([[value % 201 - 100 if small else value for _, value in pairs]])
    assert torch.equal(there_and_back(values, IntegerGaussian(indices)), values)


@pytest.mark.parametrize("index", [0, 30, 63])
def test_escapes_around_the_edges_of_a_table(index: int) -> None:
    first, frequencies = gaussian_frequencies(index)
    last = first + len(frequencies) - 2
    edges = [first - 2, first - 1, first, last, last + 1, last + 2, 2**31 - 2**12, -(2**31) + 2**12]
    values = torch.tensor([edges])
    assert torch.equal(there_and_back(values, IntegerGaussian(torch.full((1, len(edges)), index))), values)


def test_integers_beyond_32_bits_are_refused() -> None:
    with pytest.raises(OverflowError, match="beyond what a stream can hold"):
        there_and_back(torch.tensor([[2**33]]), IntegerGaussian(torch.tensor([[0]])))


def test_index_counts_the_edges_below() -> None:
    edges = torch.tensor(EDGES, dtype=torch.float64) / 65536
    beside = [torch.nextafter(edges, torch.full_like(edges, end)) for end in (0, math.inf)]
    random = torch.randn(50000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    odd = torch.tensor([0, -1, 5e-324, 1e300, math.inf, -math.inf, math.nan, -math.nan], dtype=torch.float64)
    scales = torch.cat([edges, *beside, (3 * random).exp(), odd])
    assert torch.equal(IntegerGaussian.index(scales), torch.bucketize(scales, edges))
    columns = scales[:50000].view(250, 200).float().t()
    assert torch.equal(IntegerGaussian.index(columns), torch.bucketize(columns.double().contiguous(), edges))


def test_tables_are_coded_in_ascending_order_and_escapes_last() -> None:
    indices = torch.tensor([[30, 0, 30, 0]])
    symbols = torch.tensor([[1, 7, -2, -1]])
    tables = {index: gaussian_frequencies(index) for index in (0, 30)}
    calls = recorded(IntegerGaussian(indices), symbols)
    escape = len(tables[0][1]) - 1
    assert calls[0] == ([escape, -1 - tables[0][0]], [tables[0][1].tolist()])
    assert calls[1] == ([1 - tables[30][0], -2 - tables[30][0]], [tables[30][1].tolist()])
    # 7 is the table's first integer above, and e more to that side: v = 2 e + 1.
    value = 2 * (7 - tables[0][0] - escape) + 1
    length = value.bit_length() - 1
    assert [symbols for symbols, _ in calls[2:]] == [[length], [value - (1 << length)]]
    assert [len(rows[0]) for _, rows in calls[2:]] == [32, 1 << length]


@pytest.mark.parametrize("value", [2**k + d for k in range(3, 31) for d in (-1, 0, 1)])
def test_escapes_of_every_length_come_back(value: int) -> None:
    values = torch.tensor([[value, -value]])
    assert torch.equal(there_and_back(values, IntegerGaussian(torch.tensor([[0, 1]]))), values)


def drawn(logits: list[float], **how: float) -> np.ndarray:
    """Shares of each symbol in 20,000 draws."""
    count = 20000
    rows = to_grid(torch.tensor(logits, dtype=torch.float64)).expand(1, count, -1)
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | how
    symbols = Categorical(rows).sample(torch.Generator().manual_seed(0), **options)  # type: ignore[arg-type]
    return np.bincount(symbols.flatten().numpy(), minlength=len(logits)) / count


LOGITS = [0.0, -0.5, -1.0, -2.0, -4.0]


def expected(temperature: float = 1.0, keep: int = 5) -> np.ndarray:
    p = np.exp(np.array(LOGITS) / temperature)
    p[keep:] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    ("how", "shares"),
    [
        ({}, expected()),
        ({"temperature": 2.0}, expected(2.0)),
        ({"temperature": 0.5}, expected(0.5)),
        ({"temperature": 0}, expected(keep=1)),
        ({"temperature": 1e-9}, expected(keep=1)),
        ({"top_k": 2}, expected(keep=2)),
        ({"top_k": 99}, expected()),
        ({"top_p": 0.6}, expected(keep=2)),
        ({"top_p": 1e-9}, expected(keep=1)),
        ({"top_k": 3, "top_p": 0.6}, expected(keep=2)),
    ],
)
def test_samples_follow_the_probabilities(how: dict[str, float], shares: np.ndarray) -> None:
    found = drawn(LOGITS, **how)
    assert found[shares == 0].sum() == 0
    spread = np.sqrt(shares * (1 - shares) / 20000)
    assert (np.abs(found - shares) <= 4.5 * spread).all()


def test_top_k_keeps_no_more_than_k_of_equals() -> None:
    assert (drawn([0.0] * 6, top_k=2) > 0).tolist() == [True, True, False, False, False, False]


def test_gaussian_samples_have_the_scale_of_their_table() -> None:
    indices = torch.tensor([10, 30, 50]).repeat_interleave(20000)[None]
    samples = IntegerGaussian(indices).sample(torch.Generator().manual_seed(0), 1.0, 0, 1.0).view(3, -1).double()
    for row, index in zip(samples, (10, 30, 50), strict=True):
        scale = SCALES[index] / 65536
        # Rounding to integers adds 1/12 to the variance, where the scale is not far below one.
        if index > 10:
            assert float(row.std()) == pytest.approx(math.sqrt(scale**2 + 1 / 12), rel=0.03)
        assert abs(float(row.mean())) < 5 * max(scale, 0.1) / math.sqrt(20000)
    assert torch.equal(samples[0].unique(), torch.tensor([-1.0, 0.0, 1.0]).double())


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_sample(name: str) -> None:
    distribution = distributions()[name]
    draw = lambda seed: distribution.sample(torch.Generator().manual_seed(seed), 1.0, 0, 0.9)  # noqa: E731
    assert torch.equal(draw(7), draw(7))
    assert not torch.equal(draw(7), draw(8))
    assert torch.equal(
        distribution.sample(torch.Generator().manual_seed(1), 0, 0, 1.0),
        distribution.sample(torch.Generator().manual_seed(2), 0, 0, 1.0),
    )

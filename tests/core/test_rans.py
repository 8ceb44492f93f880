"""CompressAI's entropy coder, against an encoder written from its description."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch

from obverse.compressai_streams import gaussian_tables, quantized, scale_indices, scale_table
from obverse.errors import CorruptError
from obverse.rans import RansDecoder, RansTable

LOWER = 1 << 31


def encoded(values: list[int], tables: list[RansTable]) -> bytes:
    """Symbols are pushed last first; what is popped first comes first."""
    steps: list[tuple[int, int, int]] = []  # start, width, bits
    for value, table in zip(values, tables, strict=True):
        index, beyond, raw = value - table.offset, len(table.cumulative) - 2, None
        if not 0 <= index < beyond:
            raw, index = (-2 * index - 1 if index < 0 else 2 * (index - beyond)), beyond
        start, stop = table.cumulative[index : index + 2]
        steps.append((start, stop - start, 16))
        if raw is not None:
            count = (raw.bit_length() + 3) // 4
            steps += [(15, 1, 4)] * (count // 15) + [(count % 15, 1, 4)]
            steps += [(raw >> 4 * place & 15, 1, 4) for place in range(count)]
    state, words = LOWER, []
    for start, width, bits in reversed(steps):
        if state >= ((LOWER >> bits) << 32) * width:
            words.append(state & 0xFFFFFFFF)
            state >>= 32
        state = (state // width << bits) + state % width + start
    words += [state >> 32, state & 0xFFFFFFFF]
    return b"".join(word.to_bytes(4, "little") for word in reversed(words))


def message(count: int, reach: int) -> tuple[list[int], list[int]]:
    chance = random.Random(0)
    return [chance.randrange(64) for _ in range(count)], [chance.randint(-reach, reach) for _ in range(count)]


@pytest.mark.parametrize("reach", [1, 20, 5000, 2**26])
def test_what_was_written_is_read(reach: int) -> None:
    tables = gaussian_tables()
    indices, values = message(500, reach)
    decoder = RansDecoder(encoded(values, [tables[i] for i in indices]))
    assert decoder.decode(tables, indices) == values
    decoder.finish()


def test_too_few_and_too_many_symbols_are_noticed() -> None:
    tables = gaussian_tables()
    indices, values = message(500, 20)
    data = encoded(values, [tables[i] for i in indices])
    decoder = RansDecoder(data)
    decoder.decode(tables, indices[:-1])
    with pytest.raises(CorruptError, match="more symbols than the picture"):
        decoder.finish()
    with pytest.raises(CorruptError, match="ends too early"):
        RansDecoder(data[: len(data) // 8 * 4]).decode(tables, indices)
    for damaged in (b"", data[:4], data[:9]):
        with pytest.raises(CorruptError, match="whole words"):
            RansDecoder(damaged)


def test_random_bytes_are_read_or_refused() -> None:
    chance, tables = random.Random(1), gaussian_tables()
    for _ in range(50):
        decoder = RansDecoder(chance.randbytes(64))
        try:
            values = decoder.decode(tables, [0] * 300)
        except CorruptError:
            continue
        assert all(abs(value) < 2**32 for value in values)


@pytest.mark.parametrize("bad", [(0, 65536), (0, 5, 5, 65536), (0, 7, 65535), (1, 7, 65536)])
def test_tables_are_checked(bad: tuple[int, ...]) -> None:
    with pytest.raises(CorruptError, match="must rise"):
        RansTable.of(bad, 0)


def test_every_integer_has_a_share() -> None:
    masses = torch.tensor([1e-12, 0.25, 1e-12, 0.7499, 1e-12, 1e-4]).numpy()
    cumulative = quantized(masses)
    assert (cumulative[0], cumulative[-1]) == (0, 65536)
    assert all(a < b for a, b in pairwise(cumulative))


def test_a_scale_takes_the_next_larger_table() -> None:
    table = scale_table()
    scales = torch.cat([table, table * 1.0001, torch.tensor([0.0, 1e9])])
    expected = [*range(64), *range(1, 64), 63, 0, 63]
    assert scale_indices(scales).tolist() == expected

"""docs/bitstream.md is enough to read a stream: a decoder that follows it, and shares no code with the program.

Networks come from the program; containers, checks, distributions and the range coder are written anew, in plain
integers and slowly.
"""

from __future__ import annotations

import binascii
import bisect
import hashlib
import itertools
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal, getcontext
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys

import obverse
from obverse.coders.range import RangeEncoder
from obverse.distributions import exponential_table
from obverse.gaussian import SCALES, gaussian_frequencies
from obverse.guarded import Guarded
from obverse.images import read_image
from obverse.interfaces import Block, Condition, Layout
from obverse.logistic import logistic_frequencies
from obverse.loop import run
from obverse.priors import UniformPrior

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bitstream.md").read_text(encoding="utf-8")
TOTAL = 2**24


def varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 128:
            return value, place


def parse(data: bytes) -> dict[str, int | bytes | dict[int, bytes]]:
    """The fields of a stream without damage."""
    assert data[:2] == bytes.fromhex("0b56")
    assert data[2] >> 4 == 1
    assert data[2] >> 1 & 7 in (1, 2)
    fields: dict[str, int | bytes | dict[int, bytes]] = {"tag": data[3:5], "fingerprint": data[5:8]}
    fields |= {"quality": data[8] >> 4, "coder": data[8] >> 2 & 3, "numerics": data[8] & 3}
    fields["width"], place = varint(data, 9)
    fields["height"], place = varint(data, place)
    fields["fixed"] = bytes([data[2] & 0xFE]) + data[3:place]
    chunks: dict[int, bytes] = {}
    if data[2] & 1:
        length, place = varint(data, place)
        end = place + length
        while place < end:
            number, (size, start) = data[place], varint(data, place + 1)
            chunks[number], place = data[start : start + size], start + size
        assert place == end
    length, place = varint(data, place)
    fields |= {"chunks": chunks, "payload": data[place : place + length], "overhead": len(data) - length}
    check, crc = struct.unpack(">HH", data[place + length :])
    assert crc == binascii.crc_hqx(data[:-2], 0xFFFF)
    return fields | {"check": check}


def scaled(weights: list[int]) -> list[int]:
    size, total = len(weights), sum(weights)
    frequencies = [1 + w * (TOTAL - size) // total for w in weights]
    frequencies[weights.index(max(weights))] += TOTAL - sum(frequencies)
    return frequencies


class Ranges:
    """The range decoder of the page."""

    def __init__(self, payload: bytes) -> None:
        self.rest = payload
        self.low, self.range, self.point = 0, 2**64 - 1, self.take(8)

    def take(self, count: int) -> int:
        taken, self.rest = self.rest[:count], self.rest[count:]
        return int.from_bytes(taken.ljust(count, b"\0"), "big")

    def symbol(self, frequencies: list[int]) -> int:
        scale = self.range // TOTAL
        q = (self.point - self.low) % 2**64 // scale
        assert q < TOTAL
        symbol = below = 0
        while below + frequencies[symbol] <= q:
            below, symbol = below + frequencies[symbol], symbol + 1
        self.low = (self.low + scale * below) % 2**64
        self.range = scale * frequencies[symbol]
        if self.range < 2**32:
            self.range *= 2**32
            self.low = self.low * 2**32 % 2**64
            self.point = (self.point * 2**32 + self.take(4)) % 2**64
        return symbol


class Bits:
    """The raw decoder of the page."""

    def __init__(self, payload: bytes) -> None:
        self.bits = "".join(f"{byte:08b}" for byte in payload)

    def symbol(self, frequencies: list[int]) -> int:
        width = (len(frequencies) - 1).bit_length()
        taken, self.bits = self.bits[:width], self.bits[width:]
        return int(taken or "0", 2)


def exponential(distance: int) -> int:
    getcontext().prec = 40
    return max(1, int((Decimal(2) ** 30 * (-Decimal(distance) / 8).exp()).to_integral_value()))


WEIGHTS = [exponential(distance) for distance in range(173)]


def categorical(logits: list[list[int]], coder: Ranges | Bits) -> list[int]:
    """Tokens of one block."""
    size = len(logits[0])
    low = 2 ** min(max(1, (size - 1).bit_length()) // 2, 9)
    weights = [[WEIGHTS[min(max(row) - logit, 172)] for logit in row] for row in logits]
    padded = [row + [0] * (-size % low) for row in weights]
    digits = [[row[i : i + low] for i in range(0, len(row), low)] for row in padded]
    high = [coder.symbol(scaled([sum(part) for part in row])) for row in digits]
    if low == 1:
        return high
    return [h * low + coder.symbol(scaled(row[h])) for h, row in zip(high, digits, strict=True)]


def tables(indices: list[int], table: dict[int, tuple[int, list[int]]], coder: Ranges | Bits) -> list[int]:
    """Integers of one block."""
    values = [0] * len(indices)
    escaped = []
    for index in sorted(set(indices)):
        first, frequencies = table[index]
        for place in (i for i, used in enumerate(indices) if used == index):
            entry = coder.symbol(frequencies)
            values[place] = first + entry
            if entry == len(frequencies) - 1:
                escaped.append((place, first, entry))
    for place, first, count in sorted(escaped):
        length = coder.symbol([TOTAL // 32] * 32)
        e = 2**length - 1
        for shift in range(0, length, 8):
            size = 2 ** min(8, length - shift)
            e += coder.symbol([TOTAL // size] * size) << shift
        values[place] = first - (e + 1) // 2 if e % 2 else first + count + e // 2
    return values


BORDERS = [isqrt(low * high) / 65536 for low, high in itertools.pairwise(SCALES)]
OFFSETS = [TOTAL - 15 * 2**12] + [2**12] * 15
NOISE = 2.0**-27
"""How far the numbers of this decoder are from those of the program in mode guarded64: half of what is allowed."""


def grid_logits(values: list[list[float]], offset: int) -> list[list[int]]:
    return [[max(-(2**30), min(2**30, round(8 * x + offset / 16))) for x in row] for row in values]


def table_indices(scales: list[float], offset: int) -> list[int]:
    return [bisect.bisect_left(BORDERS, scale * (1 + offset / 1024)) for scale in scales]


class Source:
    """Reads the symbols of blocks, and adds them to the symbol check."""

    def __init__(self, fields: dict[str, int | bytes | dict[int, bytes]]) -> None:
        payload = fields["payload"]
        assert isinstance(payload, bytes)
        self.coder = Bits(payload) if fields["coder"] == 1 else Ranges(payload)
        self.check = 0
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, block: Block) -> torch.Tensor:
        distribution: Any = block.distribution
        if isinstance(distribution, Guarded):
            symbols = self.guarded(block.name, distribution.values)
        elif block.name == "tokens":
            symbols = categorical(distribution.logits.flatten(0, 1).tolist(), self.coder)
        else:
            symbols = self.tables(distribution.indices.flatten().tolist(), distribution.table)
        self.check = zlib.crc32(struct.pack(f"<{len(symbols)}i", *symbols), self.check)
        return torch.tensor(symbols).view(distribution.shape)

    def tables(self, indices: list[int], table: Callable[[int], tuple[int, np.ndarray]]) -> list[int]:
        found = {i: table(i) for i in set(indices)}
        return tables(indices, {i: (first, f.tolist()) for i, (first, f) in found.items()}, self.coder)

    def guarded(self, name: str, values: torch.Tensor) -> list[int]:
        """A block of mode guarded64, from numbers that are not quite those of the encoder."""
        noise = (torch.rand(values.shape, generator=self.generator, dtype=torch.float64) * 2 - 1) * NOISE
        symbols: list[int] = []
        if name == "tokens":
            logits = (values + noise).flatten(0, 1)
            for start in range(0, len(logits), max(1, 2**20 // logits.shape[1])):
                offset = self.coder.symbol(OFFSETS)
                group = logits[start : start + max(1, 2**20 // logits.shape[1])].tolist()
                symbols += categorical(grid_logits(group, offset), self.coder)
        else:
            scales = (values * (1 + noise)).flatten().tolist()
            for start in range(0, len(scales), 2**20):
                offset = self.coder.symbol(OFFSETS)
                symbols += self.tables(table_indices(scales[start : start + 2**20], offset), gaussian_frequencies)
        return symbols


def windows(height: int, width: int, side: int) -> Iterator[list[list[tuple[int, int, bool]]]]:
    """Groups of windows; each window is a list of (row, column, known)."""
    rows, columns = min(side, height), min(side, width)
    tops, lefts = range(0, height - rows + 1, rows), range(0, width - columns + 1, columns)
    last_tops = [height - rows] if height % rows else []
    last_lefts = [width - columns] if width % columns else []
    for kind, (some_tops, some_lefts) in enumerate(
        [(tops, lefts), (tops, last_lefts), (last_tops, lefts), (last_tops, last_lefts)]
    ):
        corners = [(top, left) for top in some_tops for left in some_lefts]
        for start in range(0, len(corners), 64):
            yield [
                [
                    (
                        r,
                        c,
                        (kind in (1, 3) and c < width - width % columns) or (kind >= 2 and r < height - height % rows),
                    )
                    for r in range(top, top + rows)
                    for c in range(left, left + columns)
                ]
                for top, left in corners[start : start + 64]
            ]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return read_image(ROOT / "examples" / "images" / "brushes.jpg").pixels[200:240, 300:336]


@pytest.mark.parametrize(
    ("name", "parts", "numerics"),
    [
        ("pocket-vq", {}, "exact"),
        ("pocket-vq", {}, "guarded64"),
        ("pocket-vq", {}, "native"),
        ("pocket-vq", {"coder": "raw"}, "guarded64"),
        ("pocket-vq", {"prior": "uniform"}, "exact"),
        ("pocket-vq", {"prior": "uniform"}, "guarded64"),
        ("pocket-vq", {"prior": "uniform", "coder": "raw"}, "exact"),
        ("pocket-hyper", {}, "exact"),
        ("pocket-hyper", {}, "guarded64"),
        ("pocket-hyper", {}, "native"),
        ("pocket-hyper", {"coder": "raw"}, "guarded64"),
    ],
)
def test_the_page_decodes_what_the_program_writes(
    name: str, parts: dict[str, str], numerics: str, pixels: np.ndarray
) -> None:
    codec = obverse.load(name, parts=parts, numerics=numerics)
    exif = b"II*\0\x08\0\0\0\0\0\0\0\0\0"
    fields = parse(codec.compress(pixels, quality=codec.qualities, chunks={"name": name.encode(), "exif": exif}))
    assert (fields["width"], fields["height"], fields["quality"]) == (36, 40, codec.qualities - 1)
    assert fields["numerics"] == {"guarded64": 0, "exact": 1, "native": 2}[numerics]
    chunks = fields["chunks"]
    assert isinstance(chunks, dict)
    assert (chunks.pop(4, None) is not None) == (numerics == "native")
    assert chunks == {1: name.encode(), 3: exif}
    assert fields["tag"] == hashlib.sha256(name.encode()).digest()[:2]

    sections = {part: codec.config.parts[part] for part in ("encoder", "quantizer", "prior")}
    digest = hashlib.sha256(json.dumps(sections, sort_keys=True, separators=(",", ":")).encode())
    for path in codec.config.weights:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    assert fields["fingerprint"] == digest.digest()[:3]

    multiple, stride = codec.pipeline.encoder.multiple, codec.pipeline.encoder.stride
    layout = Layout(1, *(-(-side // multiple) * multiple // stride for side in (40, 36)))
    source = Source(fields)
    with torch.inference_mode():
        run(codec.pipeline.grid_prior.blocks(layout, Condition(codec.qualities - 1)), source)
    assert zlib.crc32(fields["fixed"], source.check) & 0xFFFF == fields["check"]


@pytest.mark.parametrize("label", [None, 0, 200])
def test_the_page_decodes_classes(tmp_path: Path, pixels: np.ndarray, label: int | None) -> None:
    path = toys.toy_class_config(tmp_path, window=2)
    with toys.installed(path):
        codec = obverse.load(path)
    fields = parse(codec.compress(pixels, label=label))
    chunks = fields["chunks"]
    assert isinstance(chunks, dict)
    told = None
    if 5 in chunks:
        told, end = varint(chunks[5], 0)
        assert end == len(chunks[5])
    assert told == label
    source = Source(fields)
    with torch.inference_mode():
        run(codec.pipeline.grid_prior.blocks(Layout(1, 3, 3), Condition(label=told)), source)
    assert zlib.crc32(fields["fixed"], source.check) & 0xFFFF == fields["check"]


def test_header_of_an_ordinary_picture() -> None:
    codec = obverse.load("pocket-vq", parts={"prior": "uniform", "coder": "raw"})
    fields = parse(codec.compress(np.zeros((160, 208, 3), np.uint8)))
    payload = fields["payload"]
    assert isinstance(payload, bytes)
    assert 128 <= len(payload) < 16384
    assert fields["overhead"] == 19


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (17, 40), (40, 23), (40, 150)])
def test_order_of_windows(size: tuple[int, int]) -> None:
    from obverse.windows import groups

    expected = list(windows(*size, 16 if size[1] < 100 else 4))
    found = list(groups(*size, 16 if size[1] < 100 else 4))
    assert len(found) == len(expected)
    for group, ours in zip(found, expected, strict=True):
        assert group.positions.tolist() == [[r * size[1] + c for r, c, _ in window] for window in ours]
        assert all(group.known.tolist() == [known for _, _, known in window] for window in ours)
    coded = [(r, c) for group in expected for window in group for r, c, known in window if not known]
    assert sorted(coded) == [(r, c) for r in range(size[0]) for c in range(size[1])]


def test_moved_grids_keep_values_off_their_borders() -> None:
    """Logits and scales that lie on borders of the first grids, as the encoder would find them."""
    logits = [[(k + 0.5 - k % 5 / 16) / 8 for k in range(40)]]  # on a border of the grids 0 to 4
    scales = [border / (1 + o / 1024) for o, border in enumerate(BORDERS[:3])]
    prior = UniformPrior(alphabets={"tokens": 40})
    for name, values, found in (
        ("tokens", logits, prior.categorical(torch.tensor([logits], dtype=torch.float64))),
        ("y", scales, prior.gaussian(torch.tensor([scales], dtype=torch.float64))),
    ):
        encoder = RangeEncoder()
        symbols = torch.arange(len(values))[None]
        encoder.put(symbols, found)
        source = Source({"payload": encoder.finish(), "coder": 0})
        assert torch.equal(source(Block(name, found)), symbols)
        assert Ranges(encoder.finish()).symbol(OFFSETS) == {"tokens": 5, "y": 3}[name]


def test_exponential_table() -> None:
    assert exponential_table().tolist() == WEIGHTS
    assert hashlib.sha256(struct.pack("<173I", *WEIGHTS)).hexdigest() in PAGE


@pytest.mark.parametrize("table", [gaussian_frequencies, logistic_frequencies])
def test_tables_of_scales(table: Callable[[int], tuple[int, np.ndarray]]) -> None:
    digest = hashlib.sha256()
    for index in range(64):
        first, frequencies = table(index)
        digest.update(struct.pack("<2i", first, len(frequencies)) + frequencies.astype("<u4").tobytes())
    assert digest.hexdigest() in PAGE
    printed = [int(n) for n in re.findall(r"\b\d+\b", PAGE.partition("SCALES[i] / 65536 with")[2])[:64]]
    assert printed == list(SCALES)


@pytest.mark.parametrize("index", [0, 17, 40])
def test_a_gaussian_table_by_its_definition(index: int) -> None:
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        scale = mpmath.mpf(SCALES[index]) / 65536
        reach = max(1, int(mpmath.floor(mpmath.mpf("6.2") * scale)))

        def below(x: float) -> object:
            return mpmath.ncdf(mpmath.mpf(x) / scale)

        masses = [below(k + 0.5) - below(k - 0.5) for k in range(-reach, reach + 1)]  # type: ignore[operator]
        masses.append(2 * below(-reach - 0.5))  # type: ignore[operator]
        weights = [int(mpmath.floor(mass * 2**36)) for mass in masses]
        weights[-1] = max(weights[-1], sum(weights) >> 16)
    first, frequencies = gaussian_frequencies(index)
    assert first == -reach
    assert frequencies.tolist() == scaled(weights)


def test_every_error_of_the_page_is_a_stream_error_with_that_exit_code() -> None:
    from obverse import errors
    from obverse.cli.exit import exit_code

    rows = re.findall(r"^\| .+ \| `(\w+Error)` \| (\d) \|$", PAGE, flags=re.MULTILINE)
    assert {name for name, _ in rows} == {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.StreamError) and kind is not errors.StreamError
    }
    assert all(exit_code(getattr(errors, name)("no"))[0] == int(code) for name, code in rows)

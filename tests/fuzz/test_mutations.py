"""Damaged streams in large numbers: an error of the right kind, or the right picture; never another one.

What a mutation may do without an error, beside nothing at all:

- With the byte checksum made right again, a change that leaves symbols, identity, settings and size as they are is no
  damage that a decoder could see: other metadata, or other last bytes of a payload that name the same message.
- The symbol check has 16 bits: of 65,536 streams that are damaged otherwise, one passes by chance. The number of those
  is counted and bounded. (The byte checksum has 16 bits of its own, so without the help that it gets here
  the chance is one in 2**32.)
"""

from __future__ import annotations

import binascii
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import toys

from obverse import container
from obverse.codec import Codec, load
from obverse.container import CHUNKS, Header, Stream, pack, unpack
from obverse.errors import StreamError
from obverse.identity import find_config

MAX_PIXELS = 2**18
"""The limit of these tests: decoding takes a time in proportion to the promised size."""
SECONDS = 10
"""A bound that holds on a busy machine too; the usual time is below 0.01."""

Mutation = Callable[[bytes, random.Random], bytes]


@pytest.fixture(scope="module")
def streams(codecs: dict[str, Codec]) -> list[bytes]:
    """Streams of every codec, coder and quality, of several sizes, with and without metadata."""
    made = []
    raw = load(codecs["toy"].config.weights[0].with_suffix(".yaml"), parts={"coder": "raw"})
    for seed, size in enumerate([(1, 1), (16, 16), (40, 30), (90, 70)]):
        picture = toys.picture(*size, seed)
        for codec in (*codecs.values(), raw):
            for quality in range(1, codec.qualities + 1):
                chunks = {"name": codec.name.encode(), "exif": b"something"} if seed % 2 else {}
                made.append(codec.compress(picture, quality=quality, chunks=chunks))
    return made


def flip_bits(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice([1, 1, 1, 2, 3, 8])):
        changed[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return bytes(changed)


def change_bytes(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice([1, 1, 2, 4])):
        changed[source.randrange(len(data))] = source.choice([0, 1, 127, 128, 255, source.randrange(256)])
    return bytes(changed)


def truncate(data: bytes, source: random.Random) -> bytes:
    return data[: source.randrange(len(data))]


def insert(data: bytes, source: random.Random) -> bytes:
    place = source.randint(0, len(data))
    return data[:place] + source.randbytes(source.randint(1, 8)) + data[place:]


def remove(data: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(data))
    return data[:start] + data[start + source.randint(1, 4) :]


def duplicate(data: bytes, source: random.Random) -> bytes:
    start = source.randrange(len(data))
    end = source.randint(start, len(data))
    return data[:end] + data[start:end] + data[end:]


MUTATIONS: tuple[Mutation, ...] = (flip_bits, change_bytes, truncate, insert, remove, duplicate)


def splice(one: bytes, other: bytes, source: random.Random) -> bytes:
    return one[: source.randint(0, len(one))] + other[source.randint(0, len(other)) :]


def resealed(data: bytes) -> bytes:
    """The same with the right byte checksum."""
    return data[:-2] + binascii.crc_hqx(data[:-2], 0xFFFF).to_bytes(2, "big")


def other_payload(stream: Stream, other: Stream, source: random.Random) -> bytes:
    """A whole stream around a damaged payload."""
    payload = stream.payload or b"\0"
    if source.random() < 0.2:
        payload = splice(payload, other.payload, source)
    else:
        payload = source.choice(MUTATIONS)(payload, source)
    return pack(stream.header, payload, stream.symbol_check)


def other_fields(stream: Stream, other: Stream, source: random.Random) -> bytes:
    """A whole stream with changed fields."""
    header: Header = stream.header
    changes: dict[str, object] = {
        "width": max(1, header.width + source.randint(-20, 20)),
        "height": source.choice([1, header.height + 1, 2 * header.height, other.header.height, 300]),
        "quality": source.randrange(16),
        "coder": source.randrange(4),
        "numerics": source.randrange(4),
        "specification": source.randrange(1, 8),
        "tag": source.choice([other.header.tag, source.randbytes(2)]),
        "fingerprint": source.choice([other.header.fingerprint, source.randbytes(3)]),
        "chunks": source.choice(
            [
                {"icc": source.randbytes(20), f"chunk-{source.randint(max(CHUNKS) + 1, 255)}": b"?"},
                {"class": source.randbytes(source.randrange(4))},
            ]
        ),
    }
    name = source.choice([*changes, "check"])
    if name == "check":
        return pack(header, stream.payload, source.randrange(65536))
    return pack(replace(header, **{name: changes[name]}), stream.payload, stream.symbol_check)  # type: ignore[arg-type]


def mutate(streams: list[bytes], source: random.Random) -> bytes:
    one, other = source.choice(streams), source.choice(streams)
    kind = source.random()
    if kind < 0.25:
        return other_payload(unpack(one), unpack(other), source)
    if kind < 0.35:
        return other_fields(unpack(one), unpack(other), source)
    data = splice(one, other, source) if kind < 0.45 else source.choice(MUTATIONS)(one, source)
    return resealed(data) if source.random() < 0.5 else data


class Judge:
    """Decodes streams as the command line does, and knows what is right.

    Args:
        codecs: the installed ones.
        streams: undamaged ones.
    """

    def __init__(self, codecs: dict[str, Codec], streams: list[bytes]) -> None:
        self.codecs = codecs
        self.pictures: dict[bytes, np.ndarray] = {}
        self.alike: dict[tuple[bytes, bytes], np.ndarray] = {}
        for data in streams:
            stream = unpack(data)
            symbols, picture = self.decode(stream)
            self.pictures[data] = self.alike[symbols, stream.header.fixed()] = picture

    def decode(self, stream: Stream) -> tuple[bytes, np.ndarray]:
        """Symbols and picture."""
        codec = self.codecs[find_config(stream.header).name]
        picture = np.asarray(codec.decode_stream(stream))
        coded, _ = codec._decode(stream)
        return b"".join(part.symbols.numpy().tobytes() for part in coded), picture

    def outcome(self, data: bytes) -> str:
        """The name of the error, or what is right with the picture."""
        try:
            stream = unpack(data)
            symbols, picture = self.decode(stream)
        except StreamError as error:
            return type(error).__name__
        header = stream.header
        assert picture.shape == (header.height, header.width, 3)
        if data in self.pictures:
            assert (picture == self.pictures[data]).all()
            return "identical"
        if (symbols, header.fixed()) in self.alike:
            assert (picture == self.alike[symbols, header.fixed()]).all()
            return "same symbols"
        return "chance"


def fuzz(codecs: dict[str, Codec], streams: list[bytes], count: int, seed: int) -> Counter[str]:
    source = random.Random(seed)
    judge = Judge(codecs, streams)
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        data = mutate(streams, source)
        started = time.perf_counter()
        outcomes[judge.outcome(data)] += 1
        assert time.perf_counter() - started < SECONDS, data.hex()
    return outcomes


@pytest.fixture
def installed(codecs: dict[str, Codec], monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy codecs as the installed ones, and a limit on sizes."""
    monkeypatch.setattr("obverse.identity.installed_codecs", lambda _: [codec.config for codec in codecs.values()])
    monkeypatch.setattr(container, "MAX_PIXELS", MAX_PIXELS)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("count", "seed"), [(300, 0), pytest.param(20_000, 1, marks=pytest.mark.slow, id="many")])
def test_mutations(
    codecs: dict[str, Codec],
    streams: list[bytes],
    count: int,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    outcomes = fuzz(codecs, streams, count, seed)
    record_property("outcomes", dict(outcomes))
    print(count, dict(outcomes.most_common()))
    expected = {"NotObverseError", "NewerVersionError", "TruncatedError", "CorruptError", "DivergedError"}
    assert expected | {"UnknownCodecError", "WrongWeightsError"} <= outcomes.keys()
    assert outcomes["DivergedError"] > count / 20  # symbols were reached
    assert StreamError.__name__ not in outcomes  # one of its subclasses says why
    assert outcomes["chance"] <= 1 + count // 10_000

"""The bytes of a stream, written and read without any codec."""

from __future__ import annotations

import binascii
import random
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obverse.container import (
    CHUNKS,
    MAGIC,
    MAX_METADATA,
    MAX_PIXELS,
    Header,
    Stream,
    check_size,
    pack,
    unpack,
    varint,
)
from obverse.errors import (
    CorruptError,
    NewerVersionError,
    NotObverseError,
    StreamError,
    TruncatedError,
    UnsupportedInputError,
)

HEADER = Header(width=300, height=2, tag=b"\x01\x02", fingerprint=b"\x0a\x0b\x0c", quality=5, coder=1, numerics=1)


def sealed(body: bytes) -> bytes:
    """A body with the right checksum."""
    return body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big")


def test_every_byte() -> None:
    data = pack(HEADER, b"payload", 0x1234)
    body = bytes.fromhex("0b 56 12 0102 0a0b0c 55 ac02 02 07") + b"payload" + bytes.fromhex("1234")
    assert data == sealed(body)
    assert unpack(data) == Stream(HEADER, b"payload", 0x1234, len(data))


def test_every_byte_with_chunks() -> None:
    header = replace(HEADER, chunks={"exif": b"xyz", "name": b"", "chunk-200": b"?"})
    body = bytes.fromhex("0b 56 13 0102 0a0b0c 55 ac02 02") + b"\x0a\x03\x03xyz\x01\x00\xc8\x01?" + b"\0\0\1"
    assert pack(header, b"", 1) == sealed(body)
    assert unpack(sealed(body)).header == header


def test_the_symbol_check_covers_versions_identity_settings_and_size() -> None:
    fixed = bytes.fromhex("12 0102 0a0b0c 55 ac02 02")
    assert HEADER.fixed() == fixed
    assert HEADER.symbol_check(0) == zlib.crc32(fixed) & 0xFFFF
    assert HEADER.symbol_check(zlib.crc32(b"symbols")) == zlib.crc32(b"symbols" + fixed) & 0xFFFF
    assert replace(HEADER, chunks={"name": b"x"}).symbol_check(0) == HEADER.symbol_check(0)
    for change in (
        {"width": 301},
        {"height": 3},
        {"quality": 4},
        {"coder": 0},
        {"numerics": 0},
        {"specification": 2},
        {"tag": b"xx"},
        {"fingerprint": b"xxx"},
    ):
        assert replace(HEADER, **change).symbol_check(0) != HEADER.symbol_check(0)


def test_the_header_of_a_512_picture_is_at_most_20_bytes() -> None:
    assert len(pack(replace(HEADER, width=512, height=512), bytes(900), 0)) - 900 <= 20


def test_the_checksum_is_the_one_of_the_format() -> None:
    """CRC-16/IBM-3740, whose check value is 29b1."""
    assert binascii.crc_hqx(b"123456789", 0xFFFF) == 0x29B1


sizes = st.integers(1, 2**13)
headers = st.builds(
    Header,
    width=sizes,
    height=sizes,
    tag=st.binary(min_size=2, max_size=2),
    fingerprint=st.binary(min_size=3, max_size=3),
    quality=st.integers(0, 15),
    coder=st.integers(0, 3),
    numerics=st.integers(0, 3),
    specification=st.integers(1, 7),
    chunks=st.dictionaries(
        st.sampled_from(list(CHUNKS.values())) | st.sampled_from(["chunk-0", "chunk-6", "chunk-255"]),
        st.binary(max_size=300),
    ),
)


def test_modes_by_name() -> None:
    assert [replace(HEADER, numerics=number).mode() for number in (0, 1)] == ["guarded64", "exact"]
    assert replace(HEADER, numerics=2, chunks={"environment": b"here"}).mode() == "native"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"numerics": 3}, CorruptError, "numerics mode 3, which does not exist"),
        (
            {"specification": 3},
            NewerVersionError,
            "version 3 of numerics mode 'exact', this program reads up to 2; install a newer Obverse",
        ),
        ({"numerics": 2}, CorruptError, "'native', and no others, tell the environment"),
        ({"chunks": {"environment": b"here"}}, CorruptError, "'native', and no others, tell the environment"),
    ],
)
def test_modes_that_cannot_be_read(changes: dict[str, Any], error: type[StreamError], message: str) -> None:
    """They can be packed and unpacked, so that `info` shows what is known."""
    header = unpack(pack(replace(HEADER, **changes), b"", 0)).header
    with pytest.raises(error, match=message):
        header.mode()


@given(headers, st.binary(max_size=300), st.integers(0, 2**16 - 1))
def test_pack_and_unpack_are_inverse(header: Header, payload: bytes, check: int) -> None:
    data = pack(header, payload, check)
    assert unpack(data) == Stream(header, payload, check, len(data))


@given(headers, st.binary(max_size=50), st.data())
def test_no_stream_begins_another(header: Header, payload: bytes, data: st.DataObject) -> None:
    whole = pack(header, payload, 0)
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(TruncatedError if length else NotObverseError):
        unpack(whole[:length])
    with pytest.raises(CorruptError, match="1 bytes follow the end"):
        unpack(whole + b"\0")


@given(st.binary(max_size=200), st.sampled_from([b"", MAGIC, MAGIC + b"\x12", MAGIC + b"\x13"]), st.booleans())
def test_arbitrary_bytes_are_refused_or_canonical(data: bytes, start: bytes, seal: bool) -> None:
    body = start + data
    try:
        stream = unpack(sealed(body) if seal else body)
    except StreamError:
        return
    assert pack(stream.header, stream.payload, stream.symbol_check) == (sealed(body) if seal else body)


@pytest.mark.parametrize("size", [(1, 1), (MAX_PIXELS, 1), (1, MAX_PIXELS), (8192, 8192)])
def test_sizes_within_the_limits(size: tuple[int, int]) -> None:
    check_size(*size)
    header = replace(HEADER, width=size[0], height=size[1])
    assert unpack(pack(header, b"", 0)).header == header


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (-1, -1), (MAX_PIXELS + 1, 1), (8193, 8192), (10**5, 10**4)])
def test_sizes_beyond_the_limits(size: tuple[int, int]) -> None:
    message = rf"a picture of {size[0]}x{size[1]} pixels is outside the limits: 1 to {MAX_PIXELS} pixels"
    with pytest.raises(UnsupportedInputError, match=message):
        check_size(*size)
    with pytest.raises(UnsupportedInputError, match=message):
        pack(replace(HEADER, width=size[0], height=size[1]), b"", 0)


@pytest.mark.parametrize("name", ["", "tiff", "chunk-1", "chunk-256", "chunk-04", "chunk-", "NAME"])
def test_metadata_of_no_known_name(name: str) -> None:
    with pytest.raises(
        UnsupportedInputError,
        match=rf"no metadata is called \['{name}'\] \(names: name, icc, exif, environment, class\)",
    ):
        pack(replace(HEADER, chunks={name: b""}), b"", 0)


def test_too_much_metadata() -> None:
    fits = replace(HEADER, chunks={"icc": bytes(MAX_METADATA - 5)})
    assert unpack(pack(fits, b"", 0)).header == fits
    with pytest.raises(UnsupportedInputError, match=f"bytes of metadata exceed the limit of {MAX_METADATA}"):
        pack(replace(HEADER, chunks={"icc": bytes(MAX_METADATA)}), b"", 0)


BODY = bytes.fromhex("0102 0a0b0c 55")


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", NotObverseError, "this is not an Obverse stream: it begins with 89 50 4e 47"),
        (b"\x0bW", NotObverseError, "begins with 0b 57"),
        (MAGIC + b"\x22", NewerVersionError, "format version 2, this program reads up to 1; install a newer Obverse"),
        (MAGIC + b"\xf3", NewerVersionError, "format version 15"),
        (MAGIC + b"\x00", NotObverseError, "format version 0, which was for development.*compress the picture again"),
        (MAGIC + b"\x11", CorruptError, "version 0 of its numerics mode, which does not exist"),
        (MAGIC + b"\x12" + BODY + b"\x80\x00\x01\x00\0\0", CorruptError, "out of range"),
        (MAGIC + b"\x12" + BODY + b"\x81\x80\x80\x80\x80\x80\x01\x01\x00\0\0", CorruptError, "out of range"),
        (MAGIC + b"\x12" + BODY + b"\x81\x80\x80\x80\x10\x01\x00\0\0", CorruptError, "out of range"),
        (MAGIC + b"\x12" + BODY + b"\x80\x80\x80\x80\x10\x01\x00\0\0", CorruptError, "promises 4294967296x1 pixels"),
        (MAGIC + b"\x12" + BODY + b"\x00\x01\x00\0\0", CorruptError, "promises 0x1 pixels"),
        (MAGIC + b"\x13" + BODY + b"\x01\x01\x81\x80\x80\x08", CorruptError, "out of range"),
        (MAGIC + b"\x13" + BODY + b"\x01\x01\x02\x01\x01\x00\0\0", CorruptError, "chunks do not fill their space"),
        (MAGIC + b"\x13" + BODY + b"\x01\x01\x04\x02\x00\x02\x00\x00\0\0", CorruptError, "holds 'icc' twice"),
        (MAGIC + b"\x13" + BODY + b"\x01\x01\x00\x00\0\0", CorruptError, "metadata is announced, but there is none"),
        (
            MAGIC + b"\x13" + BODY + b"\x01\x01\x7f\x02",
            TruncatedError,
            "the stream ends early: 15 bytes of at least 139",
        ),
    ],
)
def test_crafted_streams(body: bytes, error: type[StreamError], message: str) -> None:
    with pytest.raises(error, match=message):
        unpack(sealed(body))


def test_sizes_that_are_promised_are_not_allocated() -> None:
    body = MAGIC + b"\x12" + BODY + b"\x01\x01" + b"\x80\x80\x80\x80\x10"  # a payload of 4 GiB
    with pytest.raises(TruncatedError, match="at least 4294967312"):
        unpack(body + bytes(100))


def test_checksums_find_every_burst_of_up_to_16_bits() -> None:
    data = pack(HEADER, random.Random(0).randbytes(40), 7)
    number = int.from_bytes(data, "big")
    for width in (1, 2, 7, 16):
        for shift in range(8 * len(data) - width):
            damaged = number ^ ((1 << width - 1) | 1) << shift
            with pytest.raises(StreamError):
                unpack(damaged.to_bytes(len(data), "big"))


@pytest.mark.parametrize("label", [0, 1, 127, 128, 999, 2**31])
def test_the_class(label: int) -> None:
    header = replace(HEADER, chunks={"class": varint(label)})
    assert unpack(pack(header, b"", 0)).header.label() == label
    assert HEADER.label() is None


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x81\x00", b"\x01\x01", b"\xff" * 6])
def test_a_class_that_is_no_number(content: bytes) -> None:
    with pytest.raises(CorruptError, match=r"the class in the metadata|a size in the header"):
        replace(HEADER, chunks={"class": content}).label()

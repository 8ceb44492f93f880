"""The `.obv` stream, format version 1. docs/bitstream.md describes every byte.

Reading needs no network: `unpack` checks all that can be checked about bytes alone.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from obverse.errors import (
    CorruptError,
    NewerVersionError,
    NotObverseError,
    TruncatedError,
    UnsupportedInputError,
)
from obverse.numerics import NATIVE, NUMBERS, SPECIFICATION

MAGIC = b"\x0bV"
VERSION = 1
MAX_PIXELS = 2**26
"""Largest picture that is written or read: 67 megapixels keep the memory bounded."""
MAX_METADATA = 2**24

_MAX_LENGTH = 2**32

CHUNKS = {1: "name", 2: "icc", 3: "exif", 4: "environment", 5: "class"}
"""Metadata chunks by number: name of the codec (UTF-8), ICC profile, EXIF block, what wrote a native stream (UTF-8),
class that the prior was told (varint)."""
_CHUNK_NAMES = [CHUNKS.get(number, f"chunk-{number}") for number in range(256)]
_CHUNK_NUMBERS = {name: number for number, name in enumerate(_CHUNK_NAMES)}

CODERS = {0: "range", 1: "raw"}
"""Entropy coders by number."""

NUMERICS = {number: mode for mode, number in NUMBERS.items()}
"""Numerics modes by number: how the prior's integers were computed."""

_HAS_CHUNKS = 1


@dataclass(frozen=True)
class Header:
    """Everything in a stream beside the payload and the checksums.

    Attributes:
        width, height: size of the picture in pixels, before padding.
        tag: 2 bytes of the SHA-256 of the codec's name.
        fingerprint: 3 bytes of the SHA-256 of the codec's configuration and weights.
        quality: operating point, 0 to 15.
        coder: number of the entropy coder, 0 to 3.
        numerics: number of the numerics mode, 0 to 3.
        specification: version of the prior's rules (`obverse.numerics.SPECIFICATION`), 1 to 7.
        chunks: metadata by name (`CHUNKS`); chunks of unknown number are kept under `chunk-N`.
    """

    width: int
    height: int
    tag: bytes
    fingerprint: bytes
    quality: int = 0
    coder: int = 0
    numerics: int = 0
    specification: int = 1
    chunks: Mapping[str, bytes] = field(default_factory=dict)

    def fixed(self) -> bytes:
        """Versions, identity, settings and size, as they stand in a stream without metadata."""
        versions = VERSION << 4 | self.specification << 1
        settings = self.quality << 4 | self.coder << 2 | self.numerics
        identity = self.tag + self.fingerprint
        return bytes([versions]) + identity + bytes([settings]) + varint(self.width) + varint(self.height)

    def symbol_check(self, symbols: int) -> int:
        """What a stream says of its symbols: 16 bits of their CRC-32, continued over `fixed`.

        So symbols that decode under another codec, quality, size or rule than they were written for are noticed too.
        """
        return zlib.crc32(self.fixed(), symbols) & 0xFFFF

    def label(self) -> int | None:
        """The class that the prior is told, None without one.

        Raises:
            CorruptError: the chunk is no number.
        """
        if "class" not in self.chunks:
            return None
        reader = _Reader(self.chunks["class"], 0)
        try:
            label = reader.varint()
        except TruncatedError:
            raise CorruptError("the class in the metadata is no number") from None
        if reader.place != len(reader.data):
            raise CorruptError("the class in the metadata is no number")
        return label

    def mode(self) -> str:
        """Name of the numerics mode, which this program has in the stream's specification.

        Raises:
            CorruptError: the mode does not exist, or a native stream does not tell its environment.
            NewerVersionError: it was written by later rules of the mode.
        """
        if self.numerics not in NUMERICS:
            raise CorruptError(f"the stream names numerics mode {self.numerics}, which does not exist")
        mode = NUMERICS[self.numerics]
        if self.specification > SPECIFICATION:
            raise NewerVersionError(
                f"the stream has version {self.specification} of numerics mode {mode!r}, this program reads up to "
                f"{SPECIFICATION}; install a newer Obverse"
            )
        if ("environment" in self.chunks) != (mode == NATIVE):
            raise CorruptError("streams of numerics mode 'native', and no others, tell the environment that wrote them")
        return mode


@dataclass(frozen=True)
class Stream:
    """A parsed stream.

    Attributes:
        header: see `Header`.
        payload: entropy-coded bytes.
        symbol_check: what `Header.symbol_check` gives for the right symbols.
        size: bytes of the whole stream.
    """

    header: Header
    payload: bytes
    symbol_check: int
    size: int


def check_size(width: int, height: int) -> None:
    """Refuse sizes that are empty or beyond `MAX_PIXELS`.

    Raises:
        UnsupportedInputError: with the limits.
    """
    if not _plausible(width, height):
        raise UnsupportedInputError(
            f"a picture of {width}x{height} pixels is outside the limits: 1 to {MAX_PIXELS} pixels; resize or cut it"
        )


def _plausible(width: int, height: int) -> bool:
    return width >= 1 and height >= 1 and width * height <= MAX_PIXELS


def pack(header: Header, payload: bytes, symbol_check: int) -> bytes:
    """The bytes of a stream.

    Args:
        header: see `Header`.
        payload: entropy-coded bytes.
        symbol_check: from `Header.symbol_check`.
    """
    check_size(header.width, header.height)
    out = bytearray(MAGIC + header.fixed())
    if header.chunks:
        out[len(MAGIC)] |= _HAS_CHUNKS
        out += _pack_chunks(header.chunks)
    out += varint(len(payload)) + payload
    out += symbol_check.to_bytes(2, "big")
    return bytes(out + binascii.crc_hqx(out, 0xFFFF).to_bytes(2, "big"))


def unpack(data: bytes) -> Stream:
    """Parse a stream and check its bytes.

    Raises:
        NotObverseError: it does not begin like a stream, or is of version 0.
        NewerVersionError: it was written by a later version of the format.
        TruncatedError: it ends before its length says.
        CorruptError: its checksum is wrong, or a field has a value that no encoder writes.
    """
    if not data:
        raise NotObverseError("the stream is empty")
    if data[:2] != MAGIC[: len(data)]:
        raise NotObverseError(f"this is not an Obverse stream: it begins with {data[:4].hex(' ')}")
    reader = _Reader(data, 2)
    version, flags = divmod(reader.byte(), 16)
    specification = flags >> 1
    if version > VERSION:
        raise NewerVersionError(
            f"the stream has format version {version}, this program reads up to {VERSION}; install a newer Obverse"
        )
    if version == 0:
        raise NotObverseError(
            "the stream has format version 0, which was for development and is not read any more; "
            "compress the picture again"
        )
    if specification == 0:
        raise CorruptError("the stream names version 0 of its numerics mode, which does not exist")
    tag, fingerprint = reader.take(2), reader.take(3)
    settings = reader.byte()
    width, height = reader.varint(), reader.varint()
    chunks = _unpack_chunks(reader.take(reader.varint(MAX_METADATA))) if flags & _HAS_CHUNKS else {}
    payload = reader.take(reader.varint())
    symbol_check = int.from_bytes(reader.take(2), "big")
    end = reader.place
    if int.from_bytes(reader.take(2), "big") != binascii.crc_hqx(data[:end], 0xFFFF):
        raise CorruptError("the stream is damaged: the checksum of its bytes is wrong")
    if reader.place != len(data):
        raise CorruptError(f"{len(data) - reader.place} bytes follow the end of the stream")
    if not _plausible(width, height):
        raise CorruptError(
            f"the header promises {width}x{height} pixels, which no encoder writes (limit: {MAX_PIXELS} pixels)"
        )
    quality, coder, numerics = settings >> 4, settings >> 2 & 3, settings & 3
    header = Header(width, height, tag, fingerprint, quality, coder, numerics, specification, chunks)
    return Stream(header, payload, symbol_check, len(data))


def varint(value: int) -> bytes:
    """Little-endian base-128 (LEB128)."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _pack_chunks(chunks: Mapping[str, bytes]) -> bytes:
    unknown = [name for name in chunks if name not in _CHUNK_NUMBERS]
    if unknown:
        raise UnsupportedInputError(f"no metadata is called {unknown} (names: {', '.join(CHUNKS.values())})")
    body = b"".join(bytes([_CHUNK_NUMBERS[k]]) + varint(len(v)) + v for k, v in chunks.items())
    if len(body) > MAX_METADATA:
        raise UnsupportedInputError(f"{len(body)} bytes of metadata exceed the limit of {MAX_METADATA}")
    return varint(len(body)) + body


def _unpack_chunks(body: bytes) -> dict[str, bytes]:
    if not body:
        raise CorruptError("metadata is announced, but there is none")
    reader = _Reader(body, 0)
    chunks: dict[str, bytes] = {}
    try:
        while reader.place < len(body):
            number = reader.byte()
            name = _CHUNK_NAMES[number]
            if name in chunks:
                raise CorruptError(f"the metadata holds {name!r} twice")
            chunks[name] = reader.take(reader.varint())
    except TruncatedError:
        raise CorruptError("the metadata chunks do not fill their space") from None
    return chunks


class _Reader:
    """Takes bytes from a place onward."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place

    def take(self, count: int) -> bytes:
        end = self.place + count
        if end > len(self.data):
            raise TruncatedError(f"the stream ends early: {len(self.data)} bytes of at least {end}")
        taken = self.data[self.place : end]
        self.place = end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self, limit: int = _MAX_LENGTH) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if value > limit or shift > 35 or (byte == 0 and shift > 7):  # too large, or longer than needed
                raise CorruptError("a size in the header is out of range")
            if byte < 128:
                return value

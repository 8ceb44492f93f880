"""Strings that CompressAI's codecs wrote, read symbol for symbol.

CompressAI's `compress` gives one string for y, or one per pass over it, and one for z. A model here yields the same
blocks, so its prior runs as it does for decoding, in native arithmetic as CompressAI's, and the strings are the source
of the symbols. Their tables are CompressAI's own: those of z lie in the checkpoint, those of Gaussians have a rule.
"""

from __future__ import annotations

import math
import statistics
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from obverse.checkpoints import read_checkpoint
from obverse.context import ContextPrior
from obverse.distributions import FactorizedTable
from obverse.errors import ConfigError, CorruptError, UnsupportedInputError, WeightsError
from obverse.interfaces import Block, Blocks, Coded
from obverse.loop import run
from obverse.rans import PRECISION, RansDecoder, RansTable

if TYPE_CHECKING:
    from obverse.codec import Codec

SMALLEST_SCALE, LARGEST_SCALE, SCALES = 0.11, 256.0, 64
_TAIL_MASS = 1e-9
_EXAMPLE_MULTIPLE, _MAX_STRINGS = 64, 64
_CDF, _LENGTH, _OFFSET, _QUANTILES = "_quantized_cdf", "_cdf_length", "_offset", "quantiles"


def quantized(masses: np.ndarray) -> list[int]:
    """Cumulative 16-bit frequencies of masses [S] float32, the overflow last, as CompressAI rounds them."""
    scaled = np.floor(masses.astype(np.float32) * np.float32(1 << PRECISION) + 0.5).astype(np.int64)
    counts = (scaled << PRECISION) // scaled.sum()
    counts[-1] += (1 << PRECISION) - counts.sum()
    for place in np.flatnonzero(counts == 0):
        counts[np.where(counts > 1, counts, 2 << PRECISION).argmin()] -= 1
        counts[place] = 1
    return [0, *np.cumsum(counts).tolist()]


@lru_cache(maxsize=1)
def gaussian_tables() -> tuple[RansTable, ...]:
    """Of the 64 scales from 0.11 to 256."""
    multiplier = -statistics.NormalDist().inv_cdf(_TAIL_MASS / 2)
    tables = []
    for scale in scale_table():
        centre = math.ceil(scale.item() * multiplier)
        distance = torch.arange(-centre, centre + 1, dtype=torch.float32).abs()
        upper, lower = (_normal_below((side - distance) / scale) for side in (0.5, -0.5))
        masses = torch.cat([upper - lower, 2 * lower[:1]])
        tables.append(RansTable.of(quantized(masses.numpy()), -centre))
    return tuple(tables)


def scale_table() -> Tensor:
    """[64] float32."""
    return torch.exp(torch.linspace(math.log(SMALLEST_SCALE), math.log(LARGEST_SCALE), SCALES))


def scale_indices(scale: Tensor) -> Tensor:
    """The first table whose scale is not below, int64; the last one above all."""
    return torch.searchsorted(scale_table()[:-1], scale.float().cpu().clamp(min=SMALLEST_SCALE).contiguous())


def _normal_below(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(-(2**-0.5) * x)


def density_tables(tensors: Mapping[str, Tensor]) -> list[RansTable]:
    """The tables of an `EntropyBottleneck` in a checkpoint, one per channel.

    Raises:
        WeightsError: there are none: the checkpoint was saved before its `update()`.
    """
    names = [name.removesuffix(_QUANTILES) for name in tensors if name.endswith(_QUANTILES)]
    if len(names) != 1 or not all(f"{names[0]}{part}" in tensors for part in (_CDF, _LENGTH, _OFFSET)):
        raise WeightsError(
            "the checkpoint has no coder tables, which CompressAI's strings need: save it after update()"
        )
    rows, lengths, offsets = (tensors[f"{names[0]}{part}"].tolist() for part in (_CDF, _LENGTH, _OFFSET))
    if not rows:
        raise WeightsError("the checkpoint's coder tables are empty: save it after update()")
    return [RansTable.of(row[:n], offset) for row, n, offset in zip(rows, lengths, offsets, strict=True)]


class Strings:
    """A source that reads the symbols of blocks from strings (see `obverse.loop`), for one picture.

    Args:
        strings: as CompressAI lists them: those of y, then that of z; or one alone.
        density: tables of the array with a density per channel.
    """

    def __init__(self, strings: Sequence[bytes], density: Sequence[RansTable]) -> None:
        self._density = density
        decoders = [RansDecoder(data) for data in strings]
        *self._y, self._z = decoders if len(decoders) > 1 else decoders * 2
        self._used = 0
        self._all = decoders

    def __call__(self, block: Block) -> Tensor:
        distribution = block.distribution
        if isinstance(distribution, FactorizedTable):
            tables: Sequence[RansTable] = self._density
            indices, decoder = distribution.indices, self._z
        elif "scale" in block.context:
            tables, indices = gaussian_tables(), scale_indices(block.context["scale"])
            decoder = self._y[min(self._used, len(self._y) - 1)]
            self._used += 1
        else:
            raise ConfigError(f"block {block.name!r} has no scales: CompressAI's strings are of latents, not of tokens")
        symbols = decoder.decode(tables, indices.flatten().tolist())
        return torch.tensor(symbols, dtype=torch.int64).view(distribution.shape)

    def finish(self) -> None:
        """Refuse strings that hold more than the picture.

        Raises:
            CorruptError: there is more, or there are more strings than passes.
        """
        for decoder in self._all:
            decoder.finish()
        if len(self._y) > max(1, self._used):
            raise CorruptError(f"{len(self._y)} strings of y for {self._used} passes over it")


def read_symbols(blocks: Blocks, strings: Sequence[bytes], density: Sequence[RansTable]) -> list[Coded]:
    """All blocks with the symbols that strings hold.

    Args:
        blocks: of the prior in native arithmetic, for one picture, in CompressAI's order.
        strings, density: as for `Strings`.

    Raises:
        CorruptError: the strings are damaged, or those of another picture or model.
    """
    source = Strings(strings, density)
    coded = run(blocks, source)
    source.finish()
    return coded


@dataclass(frozen=True)
class Example:
    """A file of CompressAI's example `codec.py`.

    Attributes:
        picture: width and height before padding.
        width, height: as coded: the picture in the middle of zeros.
        quality: checkpoint, from 1.
        strings: as CompressAI lists them.
    """

    picture: tuple[int, int]
    width: int
    height: int
    quality: int
    strings: list[bytes]


def read_example(data: bytes) -> Example:
    """Take a file of CompressAI's example apart: 2 bytes of model and quality, big-endian sizes, then strings.

    Raises:
        CorruptError: it is none.
    """
    head = struct.Struct(">BBIIB3I")
    if len(data) < head.size:
        raise CorruptError("the file is too short for one of CompressAI's example")
    _, quality, height, width, depth, rows, columns, count = head.unpack_from(data)
    strings: list[bytes] = []
    place = head.size
    while len(strings) < count and place + 4 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        strings.append(data[place + 4 : place + 4 + length])
        place += 4 + length
    across, down = (-(-side // _EXAMPLE_MULTIPLE) * _EXAMPLE_MULTIPLE for side in (width, height))
    fits = rows and columns and across % columns == 0 and across * rows == down * columns
    if depth != 8 or not 1 <= count <= _MAX_STRINGS or len(strings) != count or place != len(data) or not fits:
        raise CorruptError("the file is none of CompressAI's example, or damaged")
    return Example((width, height), across, down, (quality & 15) + 1, strings)


def transcode(strings: Sequence[bytes], width: int, height: int, reader: Codec, writer: Codec) -> bytes:
    """The stream of the symbols that strings hold.

    Args:
        strings: as for `Strings`.
        width, height: as coded, multiples of the codec's.
        reader: the codec in numerics mode native, with a CompressAI checkpoint that has coder tables.
        writer: the same codec, in the mode that the stream is to have.

    Raises:
        UnsupportedInputError: the size is none that CompressAI codes.
        CorruptError, WeightsError, ConfigError: as for `read_symbols` and `density_tables`.
    """
    multiple = reader.pipeline.encoder.multiple
    if width % multiple or height % multiple:
        raise UnsupportedInputError(f"CompressAI codes sides that are multiples of {multiple}, not {width}x{height}")
    prior = reader.pipeline.prior
    if isinstance(prior, ContextPrior):
        prior.raster = True
    tensors: dict[str, Tensor] = {}
    for file in reader.config.local_weights():
        tensors |= read_checkpoint(file)
    with torch.inference_mode():
        blocks = prior.blocks(reader.canvas.layout(1, height, width), reader.condition())
        coded = read_symbols(blocks, strings, density_tables(tensors))
    arrays: dict[str, Tensor] = {}
    for name in {part.name for part in coded}:
        parts = [part for part in coded if part.name == name]
        places = [part.positions for part in parts if part.positions is not None]
        arrays[name] = parts[0].symbols
        if places:
            arrays[name] = torch.cat([part.symbols for part in parts], 1)[:, torch.cat(places).cpu().argsort()]
    return writer.write(arrays, width, height)

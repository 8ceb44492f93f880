"""The one loop. A prior yields blocks, a source knows their symbols.

source                                   what the loop does
-------------------------------------    ------------------
Encoding(Known or Quantized, encoders)   compress, or estimate the rate
Decoding(decoders)                       decompress
Sampling(generator)                      generate
Mixture(known, Sampling or Decoding)     in-painting
Kept(Known or Quantized, Sampling, keep) latents drawn under the hyper-latents of a real image
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from obverse.coding_clock import coding
from obverse.interfaces import Block, Blocks, Coded, Latents, Quantizer, SymbolDecoder, SymbolEncoder

Source = Callable[[Block], Tensor]
"""Gives the symbols of a block, int64 in the shape of its distribution."""


def run(blocks: Blocks, source: Source, limit: int | None = None) -> list[Coded]:
    """Drive a prior with a source until the prior has no more blocks.

    Args:
        blocks: the prior's.
        source: knows their symbols.
        limit: stop after so many blocks; None for all.

    Returns:
        Every block with its symbols, in coding order.
    """
    coded: list[Coded] = []
    try:
        block = next(blocks)
        while True:
            symbols = source(block)
            coded.append(Coded(block.name, symbols, block.positions, block.context))
            if len(coded) == limit:
                return coded
            block = blocks.send(symbols)
    except StopIteration:
        return coded


class Known:
    """Symbols that are all known: `arrays[name]` is [B, N] int64, or has the shape of the block."""

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        self.arrays = arrays

    def __call__(self, block: Block) -> Tensor:
        array = self.arrays[block.name]
        return array if block.positions is None else array[:, block.positions]


class Quantized:
    """Symbols of an encoded image, for quantizers that need the prior's context."""

    def __init__(self, quantizer: Quantizer, latents: Latents) -> None:
        self.quantizer, self.latents = quantizer, latents

    def __call__(self, block: Block) -> Tensor:
        # A decoder's symbols are contiguous; kernels may give other last bits for other memory formats.
        return self.quantizer.quantize(self.latents, block).contiguous()


class _Streams:
    """Rows of a batch that belong to each stream, and a running checksum of each stream's symbols."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.checks = [0] * count

    def spans(self, batch: int) -> list[tuple[int, int]]:
        rows = batch // self.count
        return [(i * rows, (i + 1) * rows) for i in range(self.count)]

    def note(self, stream: int, symbols: Tensor) -> None:
        data = symbols.reshape(-1).to(device="cpu", dtype=torch.int32).numpy().astype("<i4").tobytes()
        self.checks[stream] = zlib.crc32(data, self.checks[stream])


class Encoding:
    """Symbols of another source, written on the way to one encoder per stream.

    Args:
        source: knows the symbols.
        encoders: one per stream; a batch of B rows holds B / len(encoders) consecutive rows of each.

    Attributes:
        checks: CRC-32 of the symbols of each stream, as little-endian int32 in coding order.
    """

    def __init__(self, source: Source, encoders: Sequence[SymbolEncoder]) -> None:
        self.source, self.encoders = source, encoders
        self._streams = _Streams(len(encoders))
        self.checks = self._streams.checks

    def __call__(self, block: Block) -> Tensor:
        symbols = self.source(block)
        for i, (start, stop) in enumerate(self._streams.spans(len(symbols))):
            with coding():
                self.encoders[i].put(symbols[start:stop], block.distribution.rows(start, stop))
            self._streams.note(i, symbols[start:stop])
        return symbols


class Decoding:
    """Symbols read from one decoder per stream. `checks` as for `Encoding`."""

    def __init__(self, decoders: Sequence[SymbolDecoder]) -> None:
        self.decoders = decoders
        self._streams = _Streams(len(decoders))
        self.checks = self._streams.checks

    def __call__(self, block: Block) -> Tensor:
        parts = []
        for i, (start, stop) in enumerate(self._streams.spans(block.distribution.shape[0])):
            with coding():
                parts.append(self.decoders[i].take(block.distribution.rows(start, stop)))
            self._streams.note(i, parts[-1])
        return torch.cat(parts)


class Sampling:
    """Symbols drawn at random.

    Args:
        generator: a CPU generator; the same seed gives the same symbols.
        temperature: 1 draws from the prior itself, 0 takes the most probable symbol.
        top_k: keep the k most probable symbols; 0 keeps all.
        top_p: keep the most probable symbols that together reach this probability.
    """

    def __init__(
        self, generator: torch.Generator, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
    ) -> None:
        self.generator, self.temperature, self.top_k, self.top_p = generator, temperature, top_k, top_p

    def __call__(self, block: Block) -> Tensor:
        return block.distribution.sample(self.generator, self.temperature, self.top_k, self.top_p)


class Mixture:
    """Some symbols known, the rest from another source, which never sees the known ones.

    Args:
        known: symbols by array name, [B, N] int64; arrays that are not named come from `otherwise`.
        otherwise: source of the rest. An `Encoding` or `Decoding` here codes the unknown symbols only.
        masks: by array name, [N] bool, True where known; an array without a mask is known as a whole.
    """

    def __init__(
        self, known: Mapping[str, Tensor], otherwise: Source, masks: Mapping[str, Tensor] | None = None
    ) -> None:
        self.known, self.otherwise, self.masks = Known(known), otherwise, masks or {}

    def __call__(self, block: Block) -> Tensor:
        if block.name not in self.known.arrays:
            return self.otherwise(block)
        symbols = self.known(block)
        if block.name not in self.masks:
            return symbols
        mask = self.masks[block.name]
        missing = (~mask if block.positions is None else ~mask[block.positions]).nonzero()[:, 0]
        if not len(missing):
            return symbols
        return fill(symbols, block, missing, self.otherwise)


class Kept:
    """Some arrays as a whole from one source, as the hyper-latents of a picture; the others from another.

    Args:
        known: source of the arrays that are kept.
        otherwise: source of the others.
        keep: names of arrays, or how many of the first in coding order.
    """

    def __init__(self, known: Source, otherwise: Source, keep: int | Collection[str]) -> None:
        self.known, self.otherwise, self.keep = known, otherwise, keep
        self._order: dict[str, int] = {}

    def __call__(self, block: Block) -> Tensor:
        place = self._order.setdefault(block.name, len(self._order))
        kept = place < self.keep if isinstance(self.keep, int) else block.name in self.keep
        return (self.known if kept else self.otherwise)(block)


def fill(symbols: Tensor, block: Block, missing: Tensor, source: Source) -> Tensor:
    """`symbols` [B, n] with the columns `missing` taken from `source`."""
    positions = missing if block.positions is None else block.positions[missing]
    part = Block(block.name, block.distribution.select(missing), positions, block.context)
    symbols = symbols.clone()
    symbols[:, missing] = source(part)
    return symbols

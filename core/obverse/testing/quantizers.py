"""What every quantizer promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from obverse.distributions import Categorical, IntegerGaussian
from obverse.errors import ConfigError
from obverse.interfaces import Block, Coded, Latents, Layout, Quantizer


class QuantizerContract:
    """Subclass as `TestMyQuantizer` and define `make`."""

    idempotent = True
    """Quantizing what was dequantized gives the same symbols."""

    any_order = True
    """`dequantize` places blocks by name and position; False when it depends on their order."""

    def make(self) -> Quantizer:
        """The quantizer, with the same weights every time."""
        raise NotImplementedError

    def layout(self) -> Layout:
        return Layout(2, 4, 6)

    def latents(self) -> Latents:
        """Random arrays [B, C, h, w] on the layout's grid."""
        layout, generator = self.layout(), torch.Generator().manual_seed(0)
        return {
            name: torch.randn(layout.batch, count, layout.height, layout.width, generator=generator) * 3
            for name, count in self.make().channels.items()
        }

    def blocks(self, latents: Latents) -> list[Block]:
        """Blocks as a prior would yield them.

        By default arrays of tokens come in two halves of the grid's cells, each with every second position;
        arrays of integers as a whole, with the shape of the latents.
        """
        layout, found = self.layout(), []
        for name, size in self.make().alphabets.items():
            if size is None:
                found.append(Block(name, IntegerGaussian(torch.full(latents[name].shape, 30))))
            else:
                for first in (1, 0):
                    positions = torch.arange(first, layout.height * layout.width, 2)
                    logits = torch.zeros(1, 1, size, dtype=torch.int32).expand(layout.batch, len(positions), size)
                    found.append(Block(name, Categorical(logits), positions))
        return found

    def quantizer(self) -> Quantizer:
        """The quantizer as a codec runs it."""
        quantizer = self.make()
        if isinstance(quantizer, nn.Module):
            quantizer.requires_grad_(False).eval()
        return quantizer

    def coded(self, quantizer: Quantizer, latents: Latents) -> list[Coded]:
        return [
            Coded(block.name, quantizer.quantize(latents, block), block.positions, block.context)
            for block in self.blocks(latents)
        ]

    def test_declarations(self) -> None:
        quantizer = self.make()
        assert isinstance(quantizer, Quantizer)
        assert isinstance(quantizer.context_free, bool)
        assert quantizer.channels
        assert quantizer.alphabets
        assert all(size is None or size >= 2 for size in quantizer.alphabets.values())

    def test_symbols_have_the_shape_of_their_block(self) -> None:
        quantizer, latents = self.quantizer(), self.latents()
        for block in self.blocks(latents):
            symbols = quantizer.quantize(latents, block)
            assert symbols.dtype == torch.int64
            assert symbols.shape == block.distribution.shape

    def test_symbols_lie_in_their_alphabet(self) -> None:
        quantizer, latents = self.quantizer(), self.latents()
        for part in self.coded(quantizer, latents):
            size = quantizer.alphabets[part.name]
            assert size is None or 0 <= int(part.symbols.min()) <= int(part.symbols.max()) < size

    def test_symbols_without_a_prior(self) -> None:
        quantizer, latents = self.quantizer(), self.latents()
        if not quantizer.context_free:
            with pytest.raises(TypeError, match="depends on the prior"):
                quantizer.symbols(latents)
            return
        arrays = quantizer.symbols(latents)
        assert arrays.keys() == quantizer.alphabets.keys()
        for block in self.blocks(latents):
            array = arrays[block.name]
            assert array.dtype == torch.int64
            expected = array if block.positions is None else array[:, block.positions]
            assert torch.equal(quantizer.quantize(latents, block), expected)

    def test_candidates_begin_with_the_nearest(self) -> None:
        quantizer, latents = self.quantizer(), self.latents()
        try:
            offered = quantizer.candidates(latents, 3)
        except ConfigError:
            pytest.skip("the quantizer has no candidates")
        arrays = quantizer.symbols(latents)
        assert offered.keys() == arrays.keys()
        for name, (symbols, distances) in offered.items():
            assert symbols.dtype == torch.int64
            assert symbols.shape == distances.shape == (*arrays[name].shape, min(3, quantizer.alphabets[name] or 3))
            assert torch.equal(symbols[..., 0], arrays[name])
            assert (symbols.sort().values.diff() > 0).all(), "no candidate twice"
            assert (distances >= 0).all()
            assert (distances.diff() >= 0).all()

    def test_dequantized_latents_fit_the_encoder(self) -> None:
        quantizer, latents = self.quantizer(), self.latents()
        values = quantizer.dequantize(self.coded(quantizer, latents), self.layout())
        assert values
        for name, array in values.items():
            assert array.shape == latents[name].shape
            assert array.shape[1] == quantizer.channels[name]
            assert array.dtype == torch.float32
            assert array.isfinite().all()

    def test_idempotence(self) -> None:
        if not self.idempotent:
            pytest.skip("the quantizer does not promise it")
        quantizer, latents = self.quantizer(), self.latents()
        first = self.coded(quantizer, latents)
        values = {**latents, **quantizer.dequantize(first, self.layout())}
        for part, block in zip(first, self.blocks(latents), strict=True):
            assert torch.equal(quantizer.quantize(values, block), part.symbols)

    def test_order_of_blocks_does_not_matter(self) -> None:
        if not self.any_order:
            pytest.skip("the quantizer depends on the order")
        quantizer, latents = self.quantizer(), self.latents()
        coded = self.coded(quantizer, latents)
        there, back = (quantizer.dequantize(parts, self.layout()) for parts in (coded, coded[::-1]))
        assert there.keys() == back.keys()
        assert all(torch.equal(there[name], back[name]) for name in there)

    def test_batch_equals_single_items(self) -> None:
        quantizer, latents = self.quantizer(), self.latents()
        for index in range(self.layout().batch):
            alone = {name: array[index : index + 1] for name, array in latents.items()}
            for block in self.blocks(latents):
                context = {name: _row(array, index) for name, array in block.context.items()}
                single = Block(block.name, block.distribution.rows(index, index + 1), block.positions, context)
                symbols = quantizer.quantize(alone, single)
                assert torch.equal(symbols, quantizer.quantize(latents, block)[index : index + 1])


def _row(array: Tensor, index: int) -> Tensor:
    return array[index : index + 1] if array.ndim else array

"""What symbols cost, counted on their way through the loop."""

from __future__ import annotations

from torch import Tensor

from obverse.coders.ideal import IdealEncoder
from obverse.interfaces import Block
from obverse.loop import Source


class Ledger:
    """Ideal bits of symbols by array: -log2 of the probability that the prior itself gives them."""

    def __init__(self) -> None:
        self._encoders: dict[str, IdealEncoder] = {}

    @property
    def bits(self) -> dict[str, float]:
        """Bits by array name, in coding order."""
        return {name: encoder.bits for name, encoder in self._encoders.items()}

    def counting(self, source: Source) -> Source:
        """The same source, with every symbol that it gives counted here."""

        def counted(block: Block) -> Tensor:
            symbols = source(block)
            self._encoders.setdefault(block.name, IdealEncoder()).put(symbols, block.distribution)
            return symbols

        return counted

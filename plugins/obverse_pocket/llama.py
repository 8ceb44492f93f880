"""The next-token prior of pocket-vq."""

from __future__ import annotations

from torch import Tensor

from obverse import next_token
from obverse.interfaces import Layout


class LlamaPrior(next_token.LlamaPrior):
    """A Llama over a window of tokens in raster order, without classes.

    Args:
        vocabulary: V, number of tokens.
        dim: model width.
        layers: number of blocks.
        heads: attention heads.
        window: side of the largest grid that it models at once, in tokens.
    """

    def __init__(self, *, vocabulary: int, dim: int, layers: int, heads: int, window: int) -> None:
        super().__init__(vocabulary=vocabulary, dim=dim, layers=layers, heads=heads, window=window)

    def rotary(self, layout: Layout) -> Tensor:
        """As the base class has it, but what stands before the tokens is not turned."""
        table = super().rotary(layout)
        table[0, :, 0] = 1
        return table

"""The next-token prior of pocket-vq."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.nn.llama import Llama, rotary_2d

LOGITS = 2**22
"""Logits that a parallel pass holds at once."""


class LlamaPrior(Prior, nn.Module):
    """A Llama over a window of tokens in raster order, without classes.

    The sequence is one learned start embedding, then the tokens; the hidden state before a token predicts it.

    Args:
        vocabulary: V, number of tokens.
        dim: model width.
        layers: number of blocks.
        heads: attention heads.
        window: side of the largest grid that it models at once, in tokens.
    """

    exact: ClassVar[bool] = True

    def __init__(self, *, vocabulary: int, dim: int, layers: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.alphabets: Mapping[str, int | None] = {"tokens": vocabulary}
        self.model = Llama(vocabulary=vocabulary, dim=dim, layers=layers, heads=heads)

    def logits(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        """Teacher-forced logits [B, T, V] of tokens [B, T] on a grid of T = rows * columns cells."""
        return self.model.output(self._hidden(tokens, rows, columns))  # type: ignore[no-any-return]

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        rotary = self._rotary(layout.height, layout.width)
        length = layout.height * layout.width
        caches = self.model.caches(layout.batch, length)
        x = self._start(layout.batch)
        for t in range(length):
            logits = self.model.output(self.model.hidden_states(x, rotary[t : t + 1], caches))
            tokens = yield self._block(logits, t)
            x = self.model.tok_embeddings(tokens)

    def teacher_forced(self, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
        hidden = self._hidden(symbols["tokens"], layout.height, layout.width)
        # Logits of all positions together would be the largest array of all.
        step = max(1, LOGITS // (layout.batch * self.model.vocabulary))
        for first in range(0, hidden.shape[1], step):
            logits = self.model.output(hidden[:, first : first + step])
            for t in range(logits.shape[1]):
                yield self._block(logits[:, t : t + 1], first + t)

    def _block(self, logits: Tensor, t: int) -> Block:
        return Block("tokens", self.categorical(logits), torch.tensor([t], device=logits.device))

    def _hidden(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        inputs = torch.cat([self._start(len(tokens)), self.model.tok_embeddings(tokens[:, :-1])], dim=1)
        return self.model.hidden_states(inputs, self._rotary(rows, columns))

    def _start(self, batch: int) -> Tensor:
        return self.model.cls_embedding(torch.zeros(batch, 1, dtype=torch.int64, device=self.model.norm.weight.device))  # type: ignore[no-any-return]

    def _rotary(self, rows: int, columns: int) -> Tensor:
        """Angles of the inputs: the start embedding stands outside of the grid, token t at its own cell."""
        cells = torch.arange(-1, rows * columns - 1, device=self.model.norm.weight.device)
        row, column = cells.div(columns, rounding_mode="floor"), cells.remainder(columns)
        return rotary_2d(row.clamp(min=0), column.where(cells >= 0, 0), self.model.head_dim)

"""The next-token prior of pocket-vq."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from obverse.distributions import Categorical, to_grid
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.nn.llama import Llama, rotary_2d


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
        x = self.model.cls_embedding.weight[0].expand(layout.batch, 1, -1)
        for t in range(length):
            hidden = self.model.hidden_states(x, rotary[t : t + 1], caches)
            tokens = yield self._block(hidden, t)
            x = self.model.tok_embeddings(tokens)

    def teacher_forced(self, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
        hidden = self._hidden(symbols["tokens"], layout.height, layout.width)
        # Logits of one position at a time: [B, T, V] of every window would be the largest array of all.
        for t in range(layout.height * layout.width):
            yield self._block(hidden[:, t : t + 1], t)

    def _block(self, hidden: Tensor, t: int) -> Block:
        logits = to_grid(self.model.output(hidden))  # [B, 1, V]
        return Block("tokens", Categorical(logits), torch.tensor([t], device=hidden.device))

    def _hidden(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        start = self.model.cls_embedding.weight[0].expand(len(tokens), 1, -1)
        inputs = torch.cat([start, self.model.tok_embeddings(tokens[:, :-1])], dim=1)
        return self.model.hidden_states(inputs, self._rotary(rows, columns))

    def _rotary(self, rows: int, columns: int) -> Tensor:
        """Angles of the inputs: the start embedding stands outside of the grid, token t at its own cell."""
        cells = torch.arange(-1, rows * columns - 1, device=self.model.norm.weight.device)
        row, column = cells.div(columns, rounding_mode="floor"), cells.remainder(columns)
        return rotary_2d(row.clamp(min=0), column.where(cells >= 0, 0), self.model.head_dim)

"""The next-token prior of Lumina-mGPT, without text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.next_token import each_position
from obverse.nn.rotary import rotary_table
from obverse_lumina.transformer import Transformer

PATCH = 2
"""Cells a side of the patches that grid tokens count: 32 pixels at stride 16."""

PREFIX = 3
"""Tokens before the first code: begin of image, rows and columns of patches."""


class LuminaPrior(Prior, nn.Module):
    """Image tokens of a model of text and images, in the context that its guidance calls unconditional.

    The sequence is begin-image, grid(rows), grid(columns), then the codes row by row with a row-end token behind each
    row, in positions from 0 (the "unambiguous image representation" of arXiv:2408.02657). Codes alone are coded: the
    layout gives what stands before them, and row ends are fed where they must be. Probabilities are those of image
    tokens, renormalised.

    Grids have any size up to the window; an odd side counts as the next even one in the grid token. There is no text,
    so `Condition.guidance` has nothing to act on.

    Args:
        codes: K, number of codes.
        vocabulary: number of tokens of text and images together.
        dim: model width.
        layers: number of blocks.
        heads: attention heads.
        hidden: width of the feed-forward layers.
        window: side of the largest grid that it models at once, in cells: 2 for every 32 pixels.
        key_heads: heads of keys and values; as many as `heads` by default.
        norm_after: norms stand behind attention and feed-forward, as in the 34B models.
        base: ratio of the highest to the lowest rotary frequency, nearly.
        image: token of code 0, which the others follow in order; or the tokens of all codes. `read_ids` finds this and
            the next three in Chameleon's `text_tokenizer.json`; defaults are the numbers that Lumina-mGPT implies.
        begin: token that begins an image.
        row_end: token behind each row.
        grid: token of a grid of 0 patches; that of n patches is `grid + n`.
    """

    exact: ClassVar[bool] = True
    ids: Tensor

    def __init__(
        self,
        *,
        codes: int,
        vocabulary: int,
        dim: int,
        layers: int,
        heads: int,
        hidden: int,
        window: int,
        key_heads: int | None = None,
        norm_after: bool = False,
        base: float = 10000.0,
        image: int | Sequence[int] = 4,
        begin: int = 8197,
        row_end: int = 8803,
        grid: int = 8804,
    ) -> None:
        super().__init__()
        self.alphabets: Mapping[str, int | None] = {"tokens": codes}
        self.window, self.base = window, base
        self.begin, self.row_end, self.grid = begin, row_end, grid
        ids = list(range(image, image + codes)) if isinstance(image, int) else list(image)
        if len(set(ids)) != codes:
            raise ConfigError(f"image names {len(set(ids))} tokens, expected one for each of {codes} codes")
        used = (*ids, begin, row_end, grid + self._patches(window))
        if not 0 <= min(used) <= max(used) < vocabulary:
            raise ConfigError(f"tokens {min(used)} to {max(used)} are used, of a vocabulary of {vocabulary}")
        self.first = min(ids)
        self.ordered = ids == list(range(self.first, self.first + codes))
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        self.model = Transformer(
            vocabulary=vocabulary,
            dim=dim,
            layers=layers,
            heads=heads,
            key_heads=key_heads or heads,
            hidden=hidden,
            norm_after=norm_after,
            outputs=(self.first, max(ids) + 1 - self.first),
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of codes, [B, T, K], from hidden states [B, T, D]."""
        logits: Tensor = self.model.output(hidden)
        return logits if self.ordered else logits[..., self.ids - self.first]

    def sequence(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Inputs that predict tokens [B, h * w] of a layout: [B, PREFIX + h * (w + 1) - 2] int64.

        The last code and the last row end predict nothing that is coded.
        """
        rows = F.pad(self.ids[tokens].view(-1, layout.height, layout.width), (0, 1), value=self.row_end)
        return torch.cat([self._prefix(layout), rows.flatten(1)[:, :-2]], dim=1)

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        rotary = self._rotary(layout)
        caches = self.model.caches(layout.batch, len(rotary))
        inputs = self._prefix(layout)
        for cell in range(layout.height * layout.width):
            hidden = self.model.hidden_states(inputs, rotary, caches)
            tokens = yield self._block(self.logits(hidden[:, -1:]), cell)
            inputs = self.ids[tokens]
            if (cell + 1) % layout.width == 0:
                inputs = F.pad(inputs, (0, 1), value=self.row_end)

    def teacher_forced(self, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
        hidden = self.model.hidden_states(self.sequence(symbols["tokens"], layout), self._rotary(layout))
        cells = torch.arange(layout.height * layout.width, device=hidden.device)
        hidden = hidden[:, PREFIX - 1 + cells + cells.div(layout.width, rounding_mode="floor")]
        for cell, logits in enumerate(each_position(hidden, self.logits, len(self.ids))):
            yield self._block(logits, cell)

    def _block(self, logits: Tensor, cell: int) -> Block:
        return Block("tokens", self.categorical(logits), torch.tensor([cell], device=logits.device))

    def _prefix(self, layout: Layout) -> Tensor:
        """[B, PREFIX] int64."""
        patches = (self._patches(layout.height), self._patches(layout.width))
        prefix = [self.begin, *(self.grid + count for count in patches)]
        return torch.tensor(prefix, device=self.ids.device).expand(layout.batch, PREFIX)

    @staticmethod
    def _patches(cells: int) -> int:
        return -(-cells // PATCH)

    def _rotary(self, layout: Layout) -> Tensor:
        """[L, d/2, 2] cosines and sines of the inputs' positions."""
        length = PREFIX + layout.height * (layout.width + 1) - 2
        return rotary_table(length, self.model.head_dim // 2, self.base).to(self.model.norm.weight)

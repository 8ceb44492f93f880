"""The next-token prior of Lumina-mGPT."""

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
    """Image tokens of a model of text and images, by default in the context that its guidance calls unconditional.

    The sequence is begin-image, grid(rows), grid(columns), then the codes row by row with a row-end token behind each
    row, in positions from 0 (the "unambiguous image representation" of arXiv:2408.02657). Codes alone are coded: the
    layout gives what stands before them, and row ends are fed where they must be. Probabilities are those of image
    tokens, renormalised.

    Grids have any size up to the window; an odd side counts as the next even one in the grid token.

    A prompt stands before all this, and what follows it is counted on from there. It is part of the configuration: what
    was compressed with a prompt is decompressed with the same. With guidance of strength s logits are u + (c - u) * s,
    from a sequence behind the prompt (c) and one without it (u); where there is no prompt, guidance changes nothing.

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
        prompt: tokens of a text, as the official tokenizer makes them: begin of text, the words, the separator.
        group: windows of a picture that run as one batch; part of the format, and most of the memory.
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
        prompt: Sequence[int] = (),
        group: int = 64,
    ) -> None:
        super().__init__()
        self.alphabets: Mapping[str, int | None] = {"tokens": codes}
        self.window, self.group, self.base = window, group, base
        self.begin, self.row_end, self.grid = begin, row_end, grid
        ids = list(range(image, image + codes)) if isinstance(image, int) else list(image)
        if len(set(ids)) != codes:
            raise ConfigError(f"image names {len(set(ids))} tokens, expected one for each of {codes} codes")
        used = (*ids, begin, row_end, grid + self._patches(window), *prompt)
        if not 0 <= min(used) <= max(used) < vocabulary:
            raise ConfigError(f"tokens {min(used)} to {max(used)} are used, of a vocabulary of {vocabulary}")
        self.first = min(ids)
        self.ordered = ids == list(range(self.first, self.first + codes))
        self.prompt, self.guided = tuple(prompt), bool(prompt)
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

    def sequence(self, tokens: Tensor, layout: Layout, prompt: Sequence[int] = ()) -> Tensor:
        """Inputs that predict tokens [B, h * w] of a layout: [B, len(prompt) + PREFIX + h * (w + 1) - 2] int64.

        The last code and the last row end predict nothing that is coded.
        """
        rows = F.pad(self.ids[tokens].view(-1, layout.height, layout.width), (0, 1), value=self.row_end)
        return torch.cat([self._before(layout, prompt), rows.flatten(1)[:, :-2]], dim=1)

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        rotary = self._rotary(layout)
        prompts = self._prompts(condition)
        caches = [self.model.caches(layout.batch, len(rotary)) for _ in prompts]
        inputs = [self._before(layout, prompt) for prompt in prompts]
        for cell in range(layout.height * layout.width):
            hidden = [
                self.model.hidden_states(tokens, rotary, cache)[:, -1:]
                for tokens, cache in zip(inputs, caches, strict=True)
            ]
            symbols = yield self._block(self._guided(torch.cat(hidden), condition), cell)
            following = self.ids[symbols]
            if (cell + 1) % layout.width == 0:
                following = F.pad(following, (0, 1), value=self.row_end)
            inputs = [following] * len(prompts)

    def teacher_forced(self, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
        rotary = self._rotary(layout)
        cells = torch.arange(layout.height * layout.width, device=rotary.device)
        places = PREFIX - 1 + cells + cells.div(layout.width, rounding_mode="floor")
        hidden = [
            self.model.hidden_states(self.sequence(symbols["tokens"], layout, prompt), rotary)[:, len(prompt) + places]
            for prompt in self._prompts(condition)
        ]
        found = each_position(torch.cat(hidden), lambda part: self._guided(part, condition), len(self.ids))
        for cell, logits in enumerate(found):
            yield self._block(logits, cell)

    def _prompts(self, condition: Condition) -> list[tuple[int, ...]]:
        """What the sequences begin with that a distribution is made of."""
        return [self.prompt] if condition.guidance is None or not self.prompt else [self.prompt, ()]

    def _guided(self, hidden: Tensor, condition: Condition) -> Tensor:
        """Logits of codes, [B, T, K], from hidden states [B, T, D], or [2B, T, D] of two sequences."""
        logits = self.logits(hidden)
        if condition.guidance is None or not self.prompt:
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + (conditional - unconditional) * condition.guidance

    def _block(self, logits: Tensor, cell: int) -> Block:
        return Block("tokens", self.categorical(logits), torch.tensor([cell], device=logits.device))

    def _before(self, layout: Layout, prompt: Sequence[int]) -> Tensor:
        """What stands before the first code: [B, len(prompt) + PREFIX] int64."""
        patches = (self._patches(layout.height), self._patches(layout.width))
        tokens = [*prompt, self.begin, *(self.grid + count for count in patches)]
        return torch.tensor(tokens, device=self.ids.device).expand(layout.batch, -1)

    @staticmethod
    def _patches(cells: int) -> int:
        return -(-cells // PATCH)

    def _rotary(self, layout: Layout) -> Tensor:
        """[L, d/2, 2] cosines and sines of the inputs' positions, behind a prompt or not."""
        length = len(self.prompt) + PREFIX + layout.height * (layout.width + 1) - 2
        return rotary_table(length, self.model.head_dim // 2, self.base).to(self.model.norm.weight)

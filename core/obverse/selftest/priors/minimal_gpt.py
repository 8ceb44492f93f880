"""minGPT as taming-transformers has it: layer norms, learned positions, GELU, biases, one conditioning token.

Shape notation:
    B batch, T sequence length, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.nn.attention import Attend, KeyValueCache
from obverse.selftest.seeded import fill


class CausalSelfAttention(nn.Module):
    """Attention with biases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.key = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.attend = Attend()

    def forward(self, x: Tensor, cache: KeyValueCache | None) -> Tensor:
        q, k, v = (
            rearrange(part, "b t (h d) -> b h t d", h=self.heads)
            for part in (self.query(x), self.key(x), self.value(x))
        )
        k, v = self.attend.keys(k), self.attend.values(v)
        if cache is not None:
            k, v = cache.append(k, v)
        y = self.attend(q, k, v, causal=cache is None)
        return self.proj(rearrange(y, "b h t d -> b t (h d)"))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, both residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.ln2 = nn.LayerNorm(dim)
        self.attn = CausalSelfAttention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(0.1))

    def forward(self, x: Tensor, cache: KeyValueCache | None) -> Tensor:
        x = x + self.attn(self.ln1(x), cache)
        return x + self.mlp(self.ln2(x))  # type: ignore[no-any-return]


class MinimalGPT(Prior, nn.Module):
    """Tokens in raster order after one conditioning token from the same table.

    Args:
        vocabulary: V.
        dim: D.
        layers: number of blocks.
        heads: attention heads.
        window: side of the largest grid; there are `window**2` learned positions.
        start: the conditioning token.
    """

    exact: ClassVar[bool] = True

    def __init__(self, *, vocabulary: int, dim: int, layers: int, heads: int, window: int, start: int) -> None:
        super().__init__()
        self.alphabets: Mapping[str, int | None] = {"tokens": vocabulary}
        self.window, self.heads, self.start = window, heads, start
        self.tok_emb = nn.Embedding(vocabulary, dim)
        self.pos_emb = nn.Parameter(torch.zeros(1, window * window, dim))
        self.blocks_ = nn.ModuleList(TransformerBlock(dim, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        length, width = layout.height * layout.width, self.pos_emb.shape[-1] // self.heads
        caches = [KeyValueCache(layout.batch, self.heads, length, width, self.pos_emb) for _ in self.blocks_]
        tokens = self._start(layout.batch)
        for t in range(length):
            logits = self._logits(tokens, t, caches)
            tokens = yield self._block(logits, t)

    def teacher_forced(self, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
        tokens = torch.cat([self._start(layout.batch), symbols["tokens"][:, :-1]], dim=1)
        logits = self._logits(tokens, 0, [None] * len(self.blocks_))
        for t in range(layout.height * layout.width):
            yield self._block(logits[:, t : t + 1], t)

    def _start(self, batch: int) -> Tensor:
        return torch.full((batch, 1), self.start, device=self.pos_emb.device)

    def _logits(self, tokens: Tensor, first: int, caches: list[KeyValueCache] | list[None]) -> Tensor:
        """[B, T] tokens at positions from `first` to [B, T, V]."""
        x = self.tok_emb(tokens) + self.pos_emb[:, first : first + tokens.shape[1]]
        for block, cache in zip(self.blocks_, caches, strict=True):
            x = block(x, cache)
        return self.head(self.ln_f(x))  # type: ignore[no-any-return]

    def _block(self, logits: Tensor, t: int) -> Block:
        return Block("tokens", self.categorical(logits), torch.tensor([t], device=logits.device))


def toys() -> dict[str, Prior]:
    """A small one with seeded weights, by name."""
    prior = MinimalGPT(vocabulary=53, dim=36, layers=2, heads=3, window=4, start=7)
    return {"minimal-gpt": fill(prior, "minimal-gpt")}

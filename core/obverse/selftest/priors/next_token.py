"""A next-token transformer with the variations of LlamaGen, Cosmos and Lumina-mGPT.

Shape notation:
    B batch, T sequence length, D model width, H heads, d head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.nn.attention import Attend, KeyValueCache
from obverse.nn.llama import FeedForward, rotary_2d, rotate
from obverse.nn.norms import RMSNorm
from obverse.nn.rotary import rotary_table
from obverse.selftest.seeded import fill

_HEAD_NORMS = {"none": nn.Identity, "rms": RMSNorm, "layer": nn.LayerNorm}


class Attention(nn.Module):
    """Causal self-attention; several heads of queries may share keys and values, queries and keys may be normed."""

    def __init__(self, dim: int, heads: int, key_heads: int, head_norm: str) -> None:
        super().__init__()
        self.head_dim, self.shared = dim // heads, heads // key_heads
        self.wq = nn.Linear(dim, heads * self.head_dim, bias=False)
        self.wk = nn.Linear(dim, key_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(dim, key_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.q_norm = _HEAD_NORMS[head_norm](self.head_dim)
        self.k_norm = _HEAD_NORMS[head_norm](self.head_dim)
        self.attend = Attend()

    def forward(self, x: Tensor, rotary: Tensor, cache: KeyValueCache | None) -> Tensor:
        q, k, v = (
            rearrange(part, "b t (h d) -> b h t d", d=self.head_dim) for part in (self.wq(x), self.wk(x), self.wv(x))
        )
        q, k = rotate(self.q_norm(q), rotary), rotate(self.k_norm(k), rotary)
        k, v = self.attend.keys(k), self.attend.values(v)
        if cache is not None:
            k, v = cache.append(k, v)
        k, v = k.repeat_interleave(self.shared, 1), v.repeat_interleave(self.shared, 1)
        y = self.attend(q, k, v, causal=cache is None)
        return self.wo(rearrange(y, "b h t d -> b t (h d)"))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward, both residual."""

    def __init__(self, dim: int, heads: int, key_heads: int, head_norm: str) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, key_heads, head_norm)
        self.feed_forward = FeedForward(dim, 3 * dim)
        self.attention_norm = RMSNorm(dim)
        self.ffn_norm = RMSNorm(dim)

    def forward(self, x: Tensor, rotary: Tensor, cache: KeyValueCache | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, cache)
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]


class NextToken(Prior, nn.Module):
    """Tokens in raster order, each from those before it and a class.

    Args:
        vocabulary: V.
        dim: D.
        layers: number of blocks.
        heads: heads of queries; `dim / heads` must be divisible by 4.
        key_heads: heads of keys and values, a divisor of `heads`; as many by default.
        head_norm: norm of each head's queries and keys: "none", "rms" (Cosmos) or "layer" (Lumina).
        positions: 2 for rotary angles of row and column, with a start that stands nowhere and has cosines of zero
            (LlamaGen); 1 for angles of the place in the sequence.
        classes: rows of the class table.
        label: the class.
    """

    exact: ClassVar[bool] = True

    def __init__(
        self,
        *,
        vocabulary: int,
        dim: int,
        layers: int,
        heads: int,
        key_heads: int | None = None,
        head_norm: str = "none",
        positions: int = 2,
        classes: int,
        label: int,
    ) -> None:
        super().__init__()
        self.alphabets: Mapping[str, int | None] = {"tokens": vocabulary}
        self.key_heads, self.head_dim = key_heads or heads, dim // heads
        self.positions, self.label = positions, label
        self.tok_embeddings = nn.Embedding(vocabulary, dim)
        self.cls_embedding = nn.Embedding(classes, dim)
        self.layers = nn.ModuleList(TransformerBlock(dim, heads, self.key_heads, head_norm) for _ in range(layers))
        self.norm = RMSNorm(dim)
        self.output = nn.Linear(dim, vocabulary, bias=False)

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        length = layout.height * layout.width
        like = self.norm.weight
        caches = [KeyValueCache(layout.batch, self.key_heads, length, self.head_dim, like) for _ in self.layers]
        rotary = self._rotary(layout)
        x = self._start(layout.batch)
        for t in range(length):
            logits = self._logits(x, rotary[t : t + 1], caches)
            tokens = yield self._block(logits, t)
            x = self.tok_embeddings(tokens)

    def teacher_forced(self, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
        before = self.tok_embeddings(symbols["tokens"][:, :-1])
        x = torch.cat([self._start(layout.batch), before], dim=1)
        logits = self._logits(x, self._rotary(layout), [None] * len(self.layers))
        for t in range(layout.height * layout.width):
            yield self._block(logits[:, t : t + 1], t)

    def _start(self, batch: int) -> Tensor:
        """Embedding [B, 1, D] of the class."""
        label = torch.full((batch, 1), self.label, device=self.norm.weight.device)
        return self.cls_embedding(label)  # type: ignore[no-any-return]

    def _logits(self, x: Tensor, rotary: Tensor, caches: list[KeyValueCache] | list[None]) -> Tensor:
        """[B, T, D] embeddings to [B, T, V]."""
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, rotary, cache)
        return self.output(self.norm(x))  # type: ignore[no-any-return]

    def _block(self, logits: Tensor, t: int) -> Block:
        return Block("tokens", self.categorical(logits), torch.tensor([t], device=logits.device))

    def _rotary(self, layout: Layout) -> Tensor:
        """Angles [T, d/2, 2] of the start and all tokens but the last."""
        length, device = layout.height * layout.width, self.norm.weight.device
        if self.positions == 1:
            return rotary_table(length, self.head_dim // 2).to(device)
        cells = torch.arange(length, device=device)
        grid = rotary_2d(cells // layout.width, cells % layout.width, self.head_dim)
        return torch.cat([torch.zeros_like(grid[:1]), grid[:-1]])


def toys() -> dict[str, Prior]:
    """Small ones with seeded weights, by name."""
    small = partial(NextToken, vocabulary=61, layers=2, classes=5, label=3)
    variants = {
        "next-token-2d": small(dim=32, heads=2),
        "next-token-1d": small(dim=40, heads=2, positions=1, head_norm="layer"),
        "next-token-grouped": small(dim=32, heads=4, key_heads=2, positions=1, head_norm="rms"),
    }
    return {name: fill(prior, name) for name, prior in variants.items()}

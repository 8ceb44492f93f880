"""A Llama-style decoder over image tokens, with 2D rotary positions (LlamaGen, arXiv:2406.06525).

Shape notation:
    B batch, T sequence length, D model width, H heads, d head width, V vocabulary.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from obverse.nn.attention import Attend, KeyValueCache
from obverse.nn.norms import RMSNorm
from obverse.nn.rotary import rotary_table

INITIAL_STD = 0.02
"""Standard deviation of the weights of a new model."""


def rotary_2d(rows: Tensor, columns: Tensor, head_dim: int, base: float = 10000.0) -> Tensor:
    """Rotary angles of grid cells: the first half of the pairs turn with the row, the second with the column.

    Args:
        rows, columns: [T] int64 of each position; negative ones, outside of the grid, are not turned.
        head_dim: d, divisible by 4.
        base: ratio of the highest to the lowest frequency, nearly.

    Returns:
        [T, d/2, 2] cosines and sines, float64.
    """
    rows, columns = rows.clamp(min=0), columns.clamp(min=0)
    length = int(max(rows.max(), columns.max())) + 1
    table = rotary_table(length, head_dim // 4, base).to(rows.device)
    return torch.cat([table[rows], table[columns]], dim=1)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn interleaved pairs of x [B, H, T, d] by the angles of `table` [T, d/2, 2], half precision in float32."""
    even, odd = x[..., 0::2], x[..., 1::2]
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = table[..., 0].to(dtype), table[..., 1].to(dtype)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention with fused query, key and value rows."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv = nn.Linear(dim, 3 * dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.attend = Attend()

    def forward(self, x: Tensor, rotary: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        q, k, v = rearrange(self.wqkv(x), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        q, k = rotate(torch.cat([q, k], dim=1), rotary).chunk(2, dim=1)
        k, v = self.attend.keys(k), self.attend.values(v)
        if cache is not None:
            k, v = cache.append(k, v)
        y = self.attend(q, k, v, causal=cache is None)
        return self.wo(rearrange(y, "b h t d -> b t (h d)"))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x) (arXiv:2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.activation(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class LlamaBlock(nn.Module):
    """Pre-norm attention and feed-forward, both residual."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(dim, heads)
        self.feed_forward = FeedForward(dim, hidden)
        self.attention_norm = RMSNorm(dim)
        self.ffn_norm = RMSNorm(dim)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, rotary: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, cache))
        return x + self.dropout(self.feed_forward(self.ffn_norm(x)))  # type: ignore[no-any-return]


class Llama(nn.Module):
    """Hidden states and next-token logits for sequences that start with one class embedding.

    Args:
        vocabulary: V, number of tokens.
        dim: model width D.
        layers: number of blocks.
        heads: attention heads; `dim / heads` must be divisible by 4.
        classes: rows of the class table; a model without classes has one.
        hidden: feed-forward width, by default 8/3 D rounded up to a multiple of 32.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        dim: int,
        layers: int,
        heads: int,
        classes: int = 1,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.vocabulary = heads, dim // heads, vocabulary
        hidden = hidden or -(-8 * dim // 96) * 32
        self.tok_embeddings = nn.Embedding(vocabulary, dim)
        self.cls_embedding = nn.Embedding(classes, dim)
        self.dropout = nn.Dropout(0.0)
        self.layers = nn.ModuleList(LlamaBlock(dim, heads, hidden) for _ in range(layers))
        self.norm = RMSNorm(dim)
        self.output = nn.Linear(dim, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
        for table in (self.tok_embeddings, self.cls_embedding, self.output):
            table.weight.table = True  # type: ignore[attr-defined]  # see `obverse.training.muon`

    def drop(self, embeddings: float, residuals: float) -> None:
        """Set what is dropped while training.

        Args:
            embeddings: probability of dropping a value of an embedding, of the class too.
            residuals: of dropping a value that attention or a feed-forward adds.
        """
        self.dropout.p = embeddings
        for layer in self.layers:
            layer.dropout.p = residuals  # type: ignore[union-attr]

    def caches(self, batch: int, length: int) -> list[KeyValueCache]:
        """Empty caches, one per layer, in the dtype and on the device of the norms."""
        like = self.norm.weight
        return [KeyValueCache(batch, self.heads, length, self.head_dim, like) for _ in self.layers]

    def hidden_states(self, inputs: Tensor, rotary: Tensor, caches: list[KeyValueCache] | None = None) -> Tensor:
        """Run the blocks.

        Args:
            inputs: [B, T, D] embeddings.
            rotary: [T, d/2, 2] table of these positions.
            caches: one per layer to continue a sequence one position at a time (T = 1); None runs a whole
                sequence with a causal mask.

        Returns:
            [B, T, D] normalised hidden states, ready for `output`.
        """
        x = self.dropout(inputs)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotary, caches[index] if caches else None)
        return self.norm(x)  # type: ignore[no-any-return]

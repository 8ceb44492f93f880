"""The network of Chameleon (arXiv:2405.09818) and Lumina-mGPT (arXiv:2408.02657): a Llama with normed queries and keys.

Shape notation:
    B batch, T new positions, L positions so far with the new ones, D model width, H heads, d head width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from obverse.exact import exact_form
from obverse.exact.layers import Linear
from obverse.nn.attention import Attend, KeyValueCache
from obverse.nn.llama import FeedForward
from obverse.nn.norms import RMSNorm


class HeadNorm(nn.Module):
    """LayerNorm of each head, with weights of its own (Chameleon, section 2.3).

    Args:
        heads: H.
        dim: d.
    """

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.weight = nn.Parameter(torch.ones(heads, dim))
        self.bias = nn.Parameter(torch.zeros(heads, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, T, d] -> [B, H, T, d]."""
        return self.norm(x) * self.weight[:, None] + self.bias[:, None]  # type: ignore[no-any-return]


def rotate_halves(x: Tensor, rotary: Tensor) -> Tensor:
    """Turn pairs of x [B, H, T, d], one value from each half of d, by the angles of `rotary` [T, d/2, 2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotary.unbind(-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Self-attention whose queries and keys are normalised before they are turned.

    Args:
        dim: D.
        heads: H.
        key_heads: heads of keys and values; each serves H / key_heads heads of queries in a row.
    """

    def __init__(self, dim: int, heads: int, key_heads: int) -> None:
        super().__init__()
        self.key_heads, self.head_dim = key_heads, dim // heads
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, key_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(dim, key_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.q_norm = HeadNorm(heads, self.head_dim)
        self.k_norm = HeadNorm(key_heads, self.head_dim)
        self.attend = Attend()

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        q, k, v = (rearrange(part(x), "b t (h d) -> b h t d", d=self.head_dim) for part in (self.wq, self.wk, self.wv))
        q, k = rotate_halves(self.q_norm(q), rotary), rotate_halves(self.k_norm(k), rotary)
        k, v = self.attend.keys(k), self.attend.values(v)
        if cache is not None:
            k, v = cache.append(k, v)
        # Heads that share keys become positions of one head, so that keys are not copied.
        q = rearrange(q, "b (k g) t d -> b k (g t) d", k=self.key_heads)
        if mask is not None:
            mask = mask.repeat(q.shape[2] // len(mask), 1)
        y = self.attend(q, k, v, mask=mask)
        return self.wo(rearrange(y, "b k (g t) d -> b t (k g d)", t=x.shape[1]))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention and feed-forward, both residual, with a norm before each, or behind each.

    Args:
        dim, heads, key_heads: as for `Attention`.
        hidden: width of the feed-forward layer.
        norm_after: the order of the 34B models, after Swin v2 (arXiv:2111.09883).
    """

    def __init__(self, dim: int, heads: int, key_heads: int, hidden: int, norm_after: bool) -> None:
        super().__init__()
        self.norm_after = norm_after
        self.attention = Attention(dim, heads, key_heads)
        self.feed_forward = FeedForward(dim, hidden)
        self.attention_norm = RMSNorm(dim)
        self.ffn_norm = RMSNorm(dim)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        if self.norm_after:
            x = x + self.attention_norm(self.attention(x, rotary, mask, cache))
            return x + self.ffn_norm(self.feed_forward(x))  # type: ignore[no-any-return]
        x = x + self.attention(self.attention_norm(x), rotary, mask, cache)
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]


class PartialHead(nn.Linear):
    """Logits of some tokens of a vocabulary, whose weights are there as a whole.

    Args:
        dim: D.
        vocabulary: V.
        first, count: the tokens first, first + 1, … that have logits.
    """

    def __init__(self, dim: int, vocabulary: int, first: int, count: int) -> None:
        super().__init__(dim, vocabulary, bias=False)
        self.rows = slice(first, first + count)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, count]."""
        return F.linear(x, self.weight[self.rows])


@exact_form(PartialHead)
def _partial_head(layer: PartialHead) -> nn.Module:
    return Linear(layer.weight[layer.rows])


class Transformer(nn.Module):
    """Hidden states of sequences of text and image tokens, and logits of some tokens.

    Args:
        vocabulary: V.
        dim: D.
        layers: number of blocks.
        heads: H.
        key_heads: heads of keys and values.
        hidden: width of the feed-forward layers.
        norm_after: norms stand behind attention and feed-forward.
        outputs: first token with a logit, and their number.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        dim: int,
        layers: int,
        heads: int,
        key_heads: int,
        hidden: int,
        norm_after: bool,
        outputs: tuple[int, int],
    ) -> None:
        super().__init__()
        self.key_heads, self.head_dim = key_heads, dim // heads
        self.tok_embeddings = nn.Embedding(vocabulary, dim)
        sizes = (dim, heads, key_heads, hidden, norm_after)
        self.layers = nn.ModuleList(TransformerBlock(*sizes) for _ in range(layers))
        self.norm = RMSNorm(dim)
        self.output = PartialHead(dim, vocabulary, *outputs)

    def caches(self, batch: int, length: int) -> list[KeyValueCache]:
        """Empty caches, one per layer, in the dtype and on the device of the norms."""
        like = self.norm.weight
        return [KeyValueCache(batch, self.key_heads, length, self.head_dim, like) for _ in self.layers]

    def hidden_states(self, tokens: Tensor, rotary: Tensor, caches: list[KeyValueCache] | None = None) -> Tensor:
        """Run the blocks.

        Args:
            tokens: [B, T] int64, below V.
            rotary: [L, d/2, 2] cosines and sines of the positions so far or more, in the dtype of the norms.
            caches: one per layer, which the tokens continue; None for a sequence from its start.

        Returns:
            [B, T, D] normalised hidden states, ready for `output`.
        """
        count, past = tokens.shape[1], caches[0].filled if caches else 0
        rotary = rotary[past : past + count]
        mask = None
        if count > 1:
            mask = torch.ones(count, past + count, dtype=torch.bool, device=tokens.device).tril(past)
        x = self.tok_embeddings(tokens)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotary, mask, caches[index] if caches else None)
        return self.norm(x)  # type: ignore[no-any-return]

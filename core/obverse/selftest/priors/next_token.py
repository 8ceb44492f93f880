"""A next-token transformer with the variations of LlamaGen, Cosmos and Lumina-mGPT.

Shape notation:
    B batch, T sequence length, D model width, H heads, d head width, V vocabulary.
"""

from __future__ import annotations

from functools import partial

from einops import rearrange
from torch import Tensor, nn

from obverse.interfaces import Condition, Layout, Prior
from obverse.next_token import LlamaPrior
from obverse.nn.attention import Attend, KeyValueCache
from obverse.nn.llama import FeedForward, rotate
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


class NextToken(LlamaPrior):
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
        classes: number of classes.
        label: the class.
    """

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
        super().__init__(vocabulary=vocabulary, dim=dim, layers=0, heads=heads, classes=classes)
        key_heads = key_heads or heads
        self.model.layers.extend(TransformerBlock(dim, heads, key_heads, head_norm) for _ in range(layers))
        self.model.heads = key_heads  # those that are cached
        self.positions, self.label = positions, label

    def start(self, batch: int, condition: Condition) -> Tensor:
        return super().start(batch, Condition(label=self.label))

    def rotary(self, layout: Layout) -> Tensor:
        if self.positions == 2:
            return super().rotary(layout)
        table = rotary_table(layout.height * layout.width, self.model.head_dim // 2)
        return table.to(self.model.norm.weight)


def toys() -> dict[str, Prior]:
    """Small ones with seeded weights, by name."""
    small = partial(NextToken, vocabulary=61, layers=2, classes=4, label=3)
    variants = {
        "next-token-2d": small(dim=32, heads=2),
        "next-token-1d": small(dim=40, heads=2, positions=1, head_norm="layer"),
        "next-token-grouped": small(dim=32, heads=4, key_heads=2, positions=1, head_norm="rms"),
    }
    for name, prior in variants.items():
        fill(prior.model, name)
    return {name: prior.eval() for name, prior in variants.items()}

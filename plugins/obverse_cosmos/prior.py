"""The autoregressive world models (arXiv:2501.03575, section 6.2) as priors over the tokens of one frame.

Shape notation:
    B batch, L tokens, D model width, H heads, G heads of keys, d head width, V vocabulary, N tokens of a text, E their
    width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.nn.attention import Attend, KeyValueCache
from obverse.nn.llama import FeedForward
from obverse.nn.norms import RMSNorm
from obverse_cosmos.positions import Stretch, places, rotary_3d, rotate, sines_3d

LOGITS = 2**22
"""Logits that a parallel pass holds at once."""

KeysValues = tuple[Tensor, Tensor]
"""Keys and values [1, G, N, d] of a text in one block."""


class Attention(nn.Module):
    """Causal self-attention with normed queries and keys; several heads of queries share keys and values."""

    def __init__(self, dim: int, heads: int, key_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim, self.shared = head_dim, heads // key_heads
        self.wq = nn.Linear(dim, heads * head_dim, bias=False)
        self.wk = nn.Linear(dim, key_heads * head_dim, bias=False)
        self.wv = nn.Linear(dim, key_heads * head_dim, bias=False)
        self.wo = nn.Linear(heads * head_dim, dim, bias=False)
        self.q_norm = RMSNorm(head_dim)
        self.k_norm = RMSNorm(head_dim)
        self.attend = Attend()

    def forward(self, x: Tensor, rotary: Tensor, cache: KeyValueCache | None) -> Tensor:
        q, k, v = (
            rearrange(part, "b l (h d) -> b h l d", d=self.head_dim) for part in (self.wq(x), self.wk(x), self.wv(x))
        )
        q, k = rotate(self.q_norm(q), rotary), rotate(self.k_norm(k), rotary)
        k, v = self.attend.keys(k), self.attend.values(v)
        if cache is None:
            y = self.attend(q, k.repeat_interleave(self.shared, 1), v.repeat_interleave(self.shared, 1), causal=True)
        else:  # heads that share keys are as many queries of one head
            grouped = rearrange(q, "b (g s) 1 d -> b g s d", s=self.shared)
            y = rearrange(self.attend(grouped, *cache.append(k, v)), "b g s d -> b (g s) 1 d")
        return self.wo(rearrange(y, "b h l d -> b l (h d)"))  # type: ignore[no-any-return]


class TextAttention(nn.Module):
    """The same over a text: every position sees all of it, and nothing is turned."""

    def __init__(self, dim: int, heads: int, key_heads: int, head_dim: int, text_dim: int) -> None:
        super().__init__()
        self.head_dim, self.key_heads = head_dim, key_heads
        self.wq = nn.Linear(dim, heads * head_dim, bias=False)
        self.wk = nn.Linear(text_dim, key_heads * head_dim, bias=False)
        self.wv = nn.Linear(text_dim, key_heads * head_dim, bias=False)
        self.wo = nn.Linear(heads * head_dim, dim, bias=False)
        self.q_norm = RMSNorm(head_dim)
        self.k_norm = RMSNorm(head_dim)
        self.attend = Attend()

    def keys_values(self, text: Tensor) -> KeysValues:
        """Of the embedding of a text, [N, E]."""
        k, v = (rearrange(part(text), "n (g d) -> 1 g n d", g=self.key_heads) for part in (self.wk, self.wv))
        return self.attend.keys(self.k_norm(k)), self.attend.values(v)

    def forward(self, x: Tensor, text: KeysValues) -> Tensor:
        k, v = (part.expand(len(x), -1, -1, -1) for part in text)
        q = self.q_norm(rearrange(self.wq(x), "b l (h d) -> b h l d", d=self.head_dim))
        # Heads that share keys are as many queries of one head.
        y = self.attend(rearrange(q, "b (g s) l d -> b g (s l) d", g=self.key_heads), k, v)
        return self.wo(rearrange(y, "b g (s l) d -> b l (g s d)", l=x.shape[1]))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm attention, attention to a text where there is one, and feed-forward, all residual."""

    def __init__(self, dim: int, heads: int, key_heads: int, head_dim: int, hidden: int, text_dim: int | None) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, key_heads, head_dim)
        self.feed_forward = FeedForward(dim, hidden)
        self.attention_norm = RMSNorm(dim)
        self.ffn_norm = RMSNorm(dim)
        if text_dim is not None:
            self.cross_attention = TextAttention(dim, heads, key_heads, head_dim, text_dim)
            self.cross_attention_norm = RMSNorm(dim)

    def forward(self, x: Tensor, rotary: Tensor, cache: KeyValueCache | None, text: KeysValues | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, cache)
        if text is not None:
            x = x + self.cross_attention(self.cross_attention_norm(x), text)
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]


class CosmosPrior(Prior, nn.Module):
    """Tokens of a frame in raster order, each from those before it.

    The base models have nothing before the first token, which is coded with equal probabilities. Video2World models
    begin with a token of their own; their attention to text adds nothing without a text, and is left out. With
    `text_tokens` it is there, and the text's embedding by T5 is one of the weights, `text` [N, E], so that streams tell
    it by their fingerprint; `obverse_cosmos.checkpoints.text_weights` makes the file. The models were trained to
    continue a first frame: their probabilities of that frame itself may be poor.

    Args:
        vocabulary: V, number of tokens.
        dim: D.
        layers: number of blocks.
        hidden: width of the feed-forward layers.
        heads: heads of queries.
        key_heads: heads of keys and values, a divisor of `heads`.
        head_dim: d.
        base: ratio of the highest to the lowest rotary frequency of an axis, nearly.
        stretch: arguments of `Stretch`, for models whose rotary frequencies were lowered for larger grids.
        begins: there is a token before the first, and positions are added to the hidden states before every block, as
            in Video2World models.
        window: side of the largest grid that it models at once, in tokens; the models know 40 rows of 64.
        text_tokens: N, tokens of a text's embedding, of the 512 those that are not padding or all; 0 for no text.
        text_dim: E.
        group: windows of a picture that run as one batch; part of the format, and most of the memory.
    """

    exact: ClassVar[bool] = True

    def __init__(
        self,
        *,
        vocabulary: int,
        dim: int,
        layers: int,
        hidden: int = 14336,
        heads: int = 32,
        key_heads: int = 8,
        head_dim: int = 128,
        base: float = 500000.0,
        stretch: Mapping[str, Any] | None = None,
        begins: bool = False,
        window: int = 40,
        text_tokens: int = 0,
        text_dim: int = 1024,
        group: int = 64,
    ) -> None:
        super().__init__()
        if heads % key_heads:
            raise ValueError(f"{heads} heads cannot share the keys of {key_heads}")
        self.window, self.group = window, group
        self.vocabulary, self.dim, self.base, self.begins = vocabulary, dim, base, begins
        self.key_heads, self.head_dim = key_heads, head_dim
        self.stretch = None if stretch is None else Stretch(**stretch)
        self.alphabets: Mapping[str, int | None] = {"tokens": vocabulary}
        rows = -(-(vocabulary + 1) // 64) * 64 if begins else vocabulary
        self.tok_embeddings = nn.Embedding(rows, dim)
        sizes = (dim, heads, key_heads, head_dim, hidden, text_dim if text_tokens else None)
        self.layers = nn.ModuleList(TransformerBlock(*sizes) for _ in range(layers))
        self.norm = RMSNorm(dim)
        self.output = nn.Linear(dim, vocabulary, bias=False)
        self.text = nn.Parameter(torch.zeros(text_tokens, text_dim)) if text_tokens else None

    def positions(self, frames: int, height: int, width: int) -> tuple[Tensor, Tensor | None]:
        """What the network is told of where its inputs stand, in its dtype.

        Returns:
            Rotary angles [L, d/2, 2] of every input, where a begin token, if there is one, is not turned; and what is
            added to their hidden states, [L, D], zeros for that token, or None.
        """
        like, cells = self.norm.weight, places(frames, height, width)
        rotary = rotary_3d(cells, self.head_dim, self.base, self.stretch)
        if not self.begins:
            return rotary.to(like), None
        still = torch.tensor([1.0, 0.0], dtype=rotary.dtype).expand(1, rotary.shape[1], 2)
        added = F.pad(sines_3d(cells, self.dim), (0, 0, 1, 0)).to(torch.bfloat16)  # rounded as the models have it
        return torch.cat([still, rotary]).to(like), added.to(like)

    def text_keys_values(self) -> list[KeysValues] | None:
        """Of the text in each block; None where there is no text."""
        if self.text is None:
            return None
        return [layer.cross_attention.keys_values(self.text) for layer in self.layers]

    def hidden_states(
        self,
        inputs: Tensor,
        rotary: Tensor,
        added: Tensor | None,
        caches: Sequence[KeyValueCache] | None = None,
        text: Sequence[KeysValues] | None = None,
    ) -> Tensor:
        """Run the blocks.

        Args:
            inputs: [B, L] int64, tokens or the begin token.
            rotary, added: of these inputs, from `positions`.
            caches: one per block to continue a sequence one position at a time (L = 1); None runs a whole sequence.
            text: from `text_keys_values`.

        Returns:
            [B, L, D] normalised hidden states, ready for `output`.
        """
        x = self.tok_embeddings(inputs)
        for index, layer in enumerate(self.layers):
            if added is not None:
                x = x + added
            cache, keys_values = (None if each is None else each[index] for each in (caches, text))
            x = layer(x, rotary, cache, keys_values)
        return self.norm(x)  # type: ignore[no-any-return]

    def caches(self, batch: int, length: int) -> list[KeyValueCache]:
        """Empty caches, one per block, in the dtype and on the device of the norms."""
        like = self.norm.weight
        return [KeyValueCache(batch, self.key_heads, length, self.head_dim, like) for _ in self.layers]

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        length = layout.height * layout.width
        rotary, added = self.positions(1, layout.height, layout.width)
        caches, text = self.caches(layout.batch, length), self.text_keys_values()
        if self.begins:
            tokens = self._begin(layout.batch)
        else:
            tokens = yield self._first(layout.batch)
        ahead = 0 if self.begins else 1
        for step in range(length - ahead):
            here = slice(step, step + 1)
            hidden = self.hidden_states(
                tokens.to(rotary.device), rotary[here], None if added is None else added[here], caches, text
            )
            tokens = yield self._block(self.output(hidden), step + ahead)

    def teacher_forced(self, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
        inputs = symbols["tokens"][:, :-1].to(self.norm.weight.device)
        if self.begins:
            inputs = torch.cat([self._begin(layout.batch), inputs], dim=1)
        else:
            yield self._first(layout.batch)
        length = inputs.shape[1]
        if not length:
            return
        rotary, added = self.positions(1, layout.height, layout.width)
        added = None if added is None else added[:length]
        hidden = self.hidden_states(inputs, rotary[:length], added, text=self.text_keys_values())
        ahead = 0 if self.begins else 1
        # Logits of all positions together would be the largest array of all.
        step = max(1, LOGITS // (layout.batch * self.vocabulary))
        for first in range(0, length, step):
            logits = self.output(hidden[:, first : first + step])
            for t in range(logits.shape[1]):
                yield self._block(logits[:, t : t + 1], first + t + ahead)

    def _begin(self, batch: int) -> Tensor:
        """The begin token, [B, 1]: the first number above the vocabulary."""
        return torch.full((batch, 1), self.vocabulary, device=self.norm.weight.device)

    def _first(self, batch: int) -> Block:
        """The first token of a model that has nothing before it."""
        return self._block(self.norm.weight.new_zeros(batch, 1, self.vocabulary), 0)

    def _block(self, logits: Tensor, t: int) -> Block:
        return Block("tokens", self.categorical(logits), torch.tensor([t], device=logits.device))

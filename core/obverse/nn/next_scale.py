"""Networks of next-scale prediction: a transformer over token maps of growing size (VAR, arXiv:2404.02905).

Shape notation:
    B batch, K scales, p side of a scale, L tokens of all scales, T positions, D model width, H heads, d head width,
    V vocabulary, C channels of a codebook row, S side of the last scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from obverse.nn.attention import Attend, KeyValueCache
from obverse.nn.norms import UnitNorm
from obverse.nn.resample import area, bicubic

MAX_LOG_SCALE = 4.605170185988092
"""log 100."""


class HeadScale(nn.Module):
    """A learned factor of the queries of each head, [1, H, 1, 1], at most 100."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1, heads, 1, 1))

    def forward(self) -> Tensor:
        return self.log_scale.clamp(max=MAX_LOG_SCALE).exp()


class Attention(nn.Module):
    """Self-attention by the cosine of queries and keys, times a factor per head."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.unit = UnitNorm()
        self.scale = HeadScale(heads)
        self.attend = Attend()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        q, k = self.unit(q) * self.scale(), self.unit(k)
        k, v = self.attend.keys(k), self.attend.values(v)
        if cache is not None:
            k, v = cache.append(k, v)
        y = self.attend(q, k, v, scale=1.0, mask=mask)
        return self.proj(rearrange(y, "b h t d -> b t (h d)"))  # type: ignore[no-any-return]


class AdaLN(nn.Module):
    """Vectors that modulate norms, from a condition: [B, D] -> [B, 1, count, D] (arXiv:2212.09748)."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(dim, count * dim))

    def forward(self, condition: Tensor) -> Tensor:
        return self.layers(condition).view(len(condition), 1, self.count, -1)  # type: ignore[no-any-return]


class AdaLNOffset(nn.Module):
    """A block's own offset to vectors [B, 1, 6, D] that all blocks share."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1, 1, 6, dim))

    def forward(self, shared: Tensor) -> Tensor:
        return self.offset + shared


class TransformerBlock(nn.Module):
    """Attention and feed-forward, their inputs and outputs modulated by a condition.

    Args:
        dim, heads, hidden: sizes.
        modulation: condition to [B, 1, 6, D], an `AdaLN` or an `AdaLNOffset`.
    """

    def __init__(self, dim: int, heads: int, hidden: int, modulation: nn.Module) -> None:
        super().__init__()
        self.modulation = modulation
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.feed_forward = nn.Sequential(nn.Linear(dim, hidden), nn.GELU("tanh"), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, modulation: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """One block; `modulation` [B, 1, 6, D] is what `self.modulation` made of the condition."""
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation.unbind(2)
        x = x + gamma1 * self.attention(self.norm1(x) * (scale1 + 1) + shift1, mask, cache)
        return x + gamma2 * self.feed_forward(self.norm2(x) * (scale2 + 1) + shift2)  # type: ignore[no-any-return]


class NextScaleTransformer(nn.Module):
    """Logits of every token from the reconstruction by earlier scales.

    Args:
        sides: p of every scale.
        vocabulary: V.
        channels: C of the reconstruction.
        dim, layers, heads: sizes of the transformer.
        classes: labels; one more row of the class table stands for none.
        shared: one AdaLN for all blocks, with an offset per block, in place of one AdaLN per block.
        mlp_ratio: width of the feed-forward's inside, in units of `dim`.
    """

    levels: Tensor

    def __init__(
        self,
        *,
        sides: Sequence[int],
        vocabulary: int,
        channels: int,
        dim: int,
        layers: int,
        heads: int,
        classes: int,
        shared: bool,
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        levels = torch.cat([torch.full((side * side,), level) for level, side in enumerate(sides)])
        self.register_buffer("levels", levels, persistent=False)
        self.word_embedding = nn.Linear(channels, dim)
        self.class_embedding = nn.Embedding(classes + 1, dim)
        self.start = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, len(levels), dim))
        self.level_embedding = nn.Embedding(len(sides), dim)
        self.shared = AdaLN(dim, 6) if shared else nn.Identity()
        self.layers = nn.ModuleList(
            TransformerBlock(dim, heads, round(dim * mlp_ratio), AdaLNOffset(dim) if shared else AdaLN(dim, 6))
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.norm_modulation = AdaLN(dim, 2)
        self.head = nn.Linear(dim, vocabulary)

    def condition(self, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What stays the same from scale to scale.

        Args:
            labels: [B] int64 classes, the number of classes for none.

        Returns:
            The first token's embedding [B, D]; [B, 1, 6, D] for every block, and [B, 1, 2, D] for the last norm.
        """
        vector = self.class_embedding(labels)
        shared = self.shared(vector)
        modulations = [layer.modulation(shared) for layer in self.layers]  # type: ignore[operator]
        return vector, [*modulations, self.norm_modulation(vector)]

    def mask(self, length: int) -> Tensor:
        """[length, length] bool: a token sees its own scale and those before."""
        levels = self.levels[:length]
        return levels[:, None] >= levels

    def caches(self, batch: int, length: int) -> list[KeyValueCache]:
        """Empty caches for `length` tokens, one per layer."""
        return [KeyValueCache(batch, self.heads, length, self.head_dim, self.start) for _ in self.layers]

    def forward(
        self,
        condition: tuple[Tensor, list[Tensor]],
        features: Tensor | None,
        first: int,
        mask: Tensor | None = None,
        caches: list[KeyValueCache] | None = None,
    ) -> Tensor:
        """Logits [B, T, V] of the T tokens from position `first`.

        Args:
            condition: from the method of that name.
            features: [B, n, C] reconstruction at these tokens; the token at position 0 has none, so there n = T - 1
                (or None for T = 1).
            first: 0, or where a scale starts.
            mask: [T, T] bool, for all scales at once.
            caches: for one scale after the other.
        """
        vector, modulations = condition
        inputs = [] if features is None else [self.word_embedding(features)]
        if first == 0:
            inputs.insert(0, vector[:, None] + self.start)
        x = torch.cat(inputs, dim=1)
        places = slice(first, first + x.shape[1])
        x = x + (self.level_embedding(self.levels[places]) + self.positions[:, places])
        for index, layer in enumerate(self.layers):
            x = layer(x, modulations[index], mask, caches[index] if caches else None)
        scale, shift = modulations[-1].unbind(2)
        return self.head(self.norm(x) * (scale + 1) + shift)  # type: ignore[no-any-return]


def shared_convolutions(scales: int, count: int) -> list[int]:
    """For every scale, the number of its convolution among `count`.

    Scale k takes the tick that is nearest to k / (scales - 1). Rounding in float64 decides between ticks of the same
    distance; models were trained with what numpy finds.
    """
    margin = 1 / 3 / count if count == 4 else 1 / 2 / count
    ticks = np.linspace(margin, 1 - margin, count)
    return [int(np.abs(ticks - scale / max(1, scales - 1)).argmin()) for scale in range(scales)]


class ScaleSum(nn.Module):
    """The reconstruction f_hat [B, C, S, S] as a sum over scales of enlarged codebook rows (arXiv:2404.02905, Alg. 2).

    Args:
        sides: p of every scale, the last one S.
        vocabulary, channels: V and C.
        phis: number of convolutions, shared among the scales.
        ratio: share of the convolution in what a scale adds.
    """

    def __init__(self, *, sides: Sequence[int], vocabulary: int, channels: int, phis: int, ratio: float) -> None:
        super().__init__()
        self.sides, self.channels, self.ratio = tuple(sides), channels, ratio
        self.convolutions = shared_convolutions(len(sides), phis)
        self.codebook = nn.Embedding(vocabulary, channels)
        self.phi = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(phis))

    def term(self, tokens: Tensor, scale: int) -> Tensor:
        """What the tokens [B, p * p] of a scale add, [B, C, S, S]."""
        h = rearrange(self.codebook(tokens), "b (i j) c -> b c i j", i=self.sides[scale])
        if self.sides[scale] != self.sides[-1]:
            h = bicubic(h, self.sides[-1], self.sides[-1])
        phi = self.phi[self.convolutions[scale]]
        return h * (1 - self.ratio) + phi(h) * self.ratio  # type: ignore[no-any-return]

    def features(self, f_hat: Tensor, scale: int) -> Tensor:
        """f_hat, or another map of its size, at the cells of a scale: [B, p * p, C]."""
        if self.sides[scale] != self.sides[-1]:
            f_hat = area(f_hat, self.sides[scale], self.sides[scale])
        return f_hat.flatten(2).transpose(1, 2)

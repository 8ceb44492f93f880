"""Next-scale prediction: a transformer over token maps of growing size (VAR, arXiv:2404.02905).

Shape notation:
    B batch, K scales, p side of a scale, L tokens of all scales, T positions, D model width, H heads, d head width,
    V vocabulary, C channels of a codebook row, S side of the last scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from itertools import accumulate, pairwise
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.exact import exact_form
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.nn.attention import Attend, KeyValueCache
from obverse.nn.norms import UnitNorm
from obverse.nn.resample import area, bicubic
from obverse.selftest import seeded

MAX_LOG_SCALE = 4.605170185988092
"""log 100."""


class HeadScale(nn.Module):
    """A learned factor of the queries of each head, [1, H, 1, 1], at most 100."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1, heads, 1, 1))

    def forward(self) -> Tensor:
        return self.log_scale.clamp(max=MAX_LOG_SCALE).exp()


class ExactHeadScale(nn.Module):
    """The factors as constants: they depend on weights alone, so decimals compute them once."""

    scale: Tensor

    def __init__(self, log_scale: Tensor) -> None:
        super().__init__()
        decimals = Context(prec=40)
        logs = log_scale.detach().double().flatten().tolist()
        scales = [float(decimals.exp(Decimal(min(log, MAX_LOG_SCALE)))) for log in logs]
        self.register_buffer("scale", torch.tensor(scales, dtype=torch.float64).view_as(log_scale))

    def forward(self) -> Tensor:
        return self.scale


@exact_form(HeadScale)
def _head_scale(layer: HeadScale) -> nn.Module:
    return ExactHeadScale(layer.log_scale)


class Attention(nn.Module):
    """Self-attention by the cosine of queries and keys, times a factor per head."""

    zero_k_bias: Tensor

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("zero_k_bias", torch.zeros(dim))
        self.unit = UnitNorm()
        self.scale = HeadScale(heads)
        self.attend = Attend()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        q, k, v = rearrange(self.qkv(x) + bias, "b t (three h d) -> three b h t d", three=3, h=self.heads)
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
        dim, heads: sizes.
        modulation: condition to [B, 1, 6, D], an `AdaLN` or an `AdaLNOffset`.
    """

    def __init__(self, dim: int, heads: int, modulation: nn.Module) -> None:
        super().__init__()
        self.modulation = modulation
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        gamma1, gamma2, scale1, scale2, shift1, shift2 = self.modulation(condition).unbind(2)
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
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.null = heads, dim // heads, classes
        levels = torch.arange(len(sides)).repeat_interleave(torch.tensor([side * side for side in sides]))
        self.register_buffer("levels", levels, persistent=False)
        self.word_embedding = nn.Linear(channels, dim)
        self.class_embedding = nn.Embedding(classes + 1, dim)
        self.start = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, len(levels), dim))
        self.level_embedding = nn.Embedding(len(sides), dim)
        self.shared = AdaLN(dim, 6) if shared else nn.Identity()
        self.layers = nn.ModuleList(
            TransformerBlock(dim, heads, AdaLNOffset(dim) if shared else AdaLN(dim, 6)) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.norm_modulation = AdaLN(dim, 2)
        self.head = nn.Linear(dim, vocabulary)

    def condition(self, batch: int) -> Tensor:
        """The class embedding of no class, [B, D]."""
        return self.class_embedding(torch.full((batch,), self.null, device=self.levels.device))  # type: ignore[no-any-return]

    def mask(self) -> Tensor:
        """[L, L] bool: a token sees its own scale and those before."""
        return self.levels[:, None] >= self.levels

    def caches(self, batch: int) -> list[KeyValueCache]:
        """Empty caches for all scales, one per layer."""
        length = len(self.levels)
        return [KeyValueCache(batch, self.heads, length, self.head_dim, self.start) for _ in self.layers]

    def forward(
        self,
        condition: Tensor,
        features: Tensor | None,
        first: int,
        mask: Tensor | None = None,
        caches: list[KeyValueCache] | None = None,
    ) -> Tensor:
        """Logits [B, T, V] of the T tokens from position `first`.

        Args:
            condition: [B, D].
            features: [B, n, C] reconstruction at these tokens; the token at position 0 has none, so there n = T - 1
                (or None for T = 1).
            first: 0, or where a scale starts.
            mask: [T, T] bool, for all scales at once.
            caches: for one scale after the other.
        """
        inputs = [] if features is None else [self.word_embedding(features)]
        if first == 0:
            inputs.insert(0, condition[:, None] + self.start)
        x = torch.cat(inputs, dim=1)
        places = slice(first, first + x.shape[1])
        x = x + (self.level_embedding(self.levels[places]) + self.positions[:, places])
        modulation = self.shared(condition)
        for index, layer in enumerate(self.layers):
            x = layer(x, modulation, mask, caches[index] if caches else None)
        scale, shift = self.norm_modulation(condition).unbind(2)
        return self.head(self.norm(x) * (scale + 1) + shift)  # type: ignore[no-any-return]


class ScaleSum(nn.Module):
    """The reconstruction f_hat [B, C, S, S] as a sum over scales of enlarged codebook rows.

    Args:
        sides: p of every scale, the last one S.
        convolutions: for every scale, the number of its convolution.
        vocabulary, channels: V and C.
    """

    def __init__(self, *, sides: Sequence[int], convolutions: Sequence[int], vocabulary: int, channels: int) -> None:
        super().__init__()
        self.sides, self.convolutions, self.channels = tuple(sides), tuple(convolutions), channels
        self.codebook = nn.Embedding(vocabulary, channels)
        self.phi = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(max(convolutions) + 1))

    def term(self, tokens: Tensor, scale: int) -> Tensor:
        """What the tokens [B, p * p] of a scale add, [B, C, S, S]."""
        h = rearrange(self.codebook(tokens), "b (i j) c -> b c i j", i=self.sides[scale])
        h = bicubic(h, self.sides[-1], self.sides[-1])
        return h * 0.5 + self.phi[self.convolutions[scale]](h) * 0.5  # type: ignore[no-any-return]

    def features(self, f_hat: Tensor, scale: int) -> Tensor:
        """f_hat as input of a scale, [B, p * p, C]."""
        return area(f_hat, self.sides[scale], self.sides[scale]).flatten(2).transpose(1, 2)


class NextScalePrior(Prior, nn.Module):
    """One block of tokens per scale, each scale in raster order.

    Every scale sees all earlier ones through attention, and through the reconstruction that they make together.

    Args:
        sides: p of every scale, from 1 up; the latent grid has the last side.
        convolutions: for every scale, the number of its convolution in `ScaleSum`.
        vocabulary, channels: V codes of C values.
        dim, layers, heads, classes, shared: as for `NextScaleTransformer`.
    """

    exact: ClassVar[bool] = True

    def __init__(
        self,
        *,
        sides: Sequence[int],
        convolutions: Sequence[int],
        vocabulary: int,
        channels: int,
        dim: int,
        layers: int,
        heads: int,
        classes: int,
        shared: bool,
    ) -> None:
        super().__init__()
        self.sides = tuple(sides)
        self.alphabets: Mapping[str, int | None] = {"tokens": vocabulary}
        self.scales = ScaleSum(sides=sides, convolutions=convolutions, vocabulary=vocabulary, channels=channels)
        self.model = NextScaleTransformer(
            sides=sides,
            vocabulary=vocabulary,
            channels=channels,
            dim=dim,
            layers=layers,
            heads=heads,
            classes=classes,
            shared=shared,
        )

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        label, f_hat = self._start(layout)
        caches = self.model.caches(layout.batch)
        features = None
        for scale, (first, stop) in enumerate(self._spans()):
            logits = self.model(label, features, first, caches=caches)
            tokens = yield self._block(logits, first, stop)
            if stop < len(self.model.levels):
                f_hat = f_hat + self.scales.term(tokens, scale)
                features = self.scales.features(f_hat, scale + 1)

    def teacher_forced(self, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
        label, f_hat = self._start(layout)
        tokens, spans = symbols["tokens"], self._spans()
        features = []
        for scale, (first, stop) in enumerate(spans[:-1]):
            f_hat = f_hat + self.scales.term(tokens[:, first:stop], scale)
            features.append(self.scales.features(f_hat, scale + 1))
        logits = self.model(label, torch.cat(features, dim=1), 0, mask=self.model.mask())
        for first, stop in spans:
            yield self._block(logits[:, first:stop], first, stop)

    def _start(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """The condition [B, D], and an f_hat of zeros [B, C, S, S]."""
        side = self.sides[-1]
        if (layout.height, layout.width) != (side, side):
            raise ConfigError(f"scales up to {side}x{side} do not fit a latent grid of {layout.height}x{layout.width}")
        zeros = self.model.start.new_zeros(layout.batch, self.scales.channels, side, side)
        return self.model.condition(layout.batch), zeros

    def _spans(self) -> list[tuple[int, int]]:
        """First position of every scale, and the first after it."""
        return list(pairwise(accumulate((side * side for side in self.sides), initial=0)))

    def _block(self, logits: Tensor, first: int, stop: int) -> Block:
        return Block("tokens", self.categorical(logits), torch.arange(first, stop, device=logits.device))


def toys() -> dict[str, Prior]:
    """Float priors over grids of 4x4 with seeded weights, by case."""
    return {
        name: seeded.fill(
            NextScalePrior(
                sides=(1, 2, 3, 4),
                convolutions=(0, 0, 1, 1),
                vocabulary=40,
                channels=8,
                dim=32,
                layers=2,
                heads=4,
                classes=3,
                shared=shared,
            ),
            name,
        )
        for name, shared in (("next-scale", False), ("next-scale-shared-adaln", True))
    }

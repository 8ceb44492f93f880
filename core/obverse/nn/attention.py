"""Attention as a layer without weights, and the cache of a sequence that grows.

Shape notation:
    B batch, H heads, T positions, d width of a head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attend(nn.Module):
    """softmax(scale * q k^T) v.

    Keys and values pass through `keys` and `values` once, before they are cached or attended to; so a form of this
    layer with other numbers can prepare them once.
    """

    def keys(self, k: Tensor) -> Tensor:
        """Keys as they are kept, [B, H, T, d]."""
        return k

    def values(self, v: Tensor) -> Tensor:
        """Values as they are kept, [B, H, T, d]."""
        return v

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        causal: bool = False,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attend to kept keys and values.

        Args:
            q: [B, H, Tq, d].
            k, v: [B, H, T, d] from `keys` and `values`.
            scale: factor of the scores, 1 / sqrt(d) by default.
            causal: query i sees positions up to i; only for Tq = T.
            mask: [Tq, T] bool, True where seen.

        Returns:
            [B, H, Tq, d].
        """
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale)


class KeyValueCache:
    """Keys and values of one layer for a sequence of at most `length` positions, written in order.

    Args:
        batch, heads, length, head_dim: sizes.
        like: a tensor whose dtype and device the cache takes.
    """

    def __init__(self, batch: int, heads: int, length: int, head_dim: int, like: Tensor) -> None:
        self.keys = like.new_zeros(batch, heads, length, head_dim)
        self.values = like.new_zeros(batch, heads, length, head_dim)
        self.filled = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add T positions, [B, H, T, d] each; returns all keys and values so far."""
        end = self.filled + keys.shape[2]
        self.keys[:, :, self.filled : end] = keys
        self.values[:, :, self.filled : end] = values
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

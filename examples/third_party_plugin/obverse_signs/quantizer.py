"""Lookup-free quantization: the sign of each channel (MAGVIT-v2, arXiv:2310.05737)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from obverse.interfaces import Block, Coded, Latents, Layout, Quantizer


class SignQuantizer(Quantizer):
    """One bit per latent channel; a token is the D bits of a cell, the first channel the highest.

    There is no codebook and nothing to train: code number n is the corner of a cube that the bits of n name,
    scaled to unit length.

    Args:
        dim: D, channels of the latent; the alphabet has 2**D tokens.
    """

    context_free: ClassVar[bool] = True

    def __init__(self, *, dim: int) -> None:
        if not 1 <= dim <= 16:
            raise ValueError(f"dim is {dim}, expected 1 to 16")
        self.dim = dim
        self.channels: Mapping[str, int] = {"tokens": dim}
        self.alphabets: Mapping[str, int | None] = {"tokens": 2**dim}

    def symbols(self, latents: Latents) -> dict[str, Tensor]:
        bits = (rearrange(latents["tokens"], "b d h w -> b (h w) d") > 0).long()
        return {"tokens": (bits << self._shifts(bits.device)).sum(-1)}

    def quantize(self, latents: Latents, block: Block) -> Tensor:
        tokens = self.symbols(latents)[block.name]
        return tokens if block.positions is None else tokens[:, block.positions]

    def dequantize(self, coded: list[Coded], layout: Layout) -> Latents:
        tokens = torch.zeros(layout.batch, layout.height * layout.width, dtype=torch.int64)
        for part in coded:
            where = slice(None) if part.positions is None else part.positions.cpu()
            tokens[:, where] = part.symbols.cpu()
        bits = tokens[:, :, None] >> self._shifts(tokens.device) & 1
        corners = (2 * bits - 1).float() / self.dim**0.5
        return {"tokens": rearrange(corners, "b (h w) d -> b d h w", h=layout.height)}

    def _shifts(self, device: torch.device) -> Tensor:
        return torch.arange(self.dim - 1, -1, -1, device=device)

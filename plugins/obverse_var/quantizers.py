"""The residual quantizer of VAR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.interfaces import Block, Coded, Latents, Layout, Quantizer
from obverse.next_scale import check_grid, scale_spans
from obverse.nn.next_scale import ScaleSum

_PIECE = 4096  # vectors compared with the codebook at once


class MultiScaleQuantizer(Quantizer, nn.Module):
    """Token maps of growing size, each the nearest codes of what the maps before left over (arXiv:2404.02905, Alg. 1).

    Tokens [B, L] are those of all scales, from small to large, each in raster order. The first scales alone give a
    coarser latent: `dequantize` takes the blocks of any number of them.

    Args:
        size: V, number of codes.
        dim: C, channels of the latent.
        sides: p of every scale; the latent grid has the last side.
        phis, ratio: as for `ScaleSum`.
    """

    context_free: ClassVar[bool] = True

    def __init__(self, *, size: int, dim: int, sides: Sequence[int], phis: int = 4, ratio: float = 0.5) -> None:
        super().__init__()
        self.channels = {"tokens": dim}
        self.alphabets: Mapping[str, int | None] = {"tokens": size}
        self.sides = tuple(sides)
        self.count = sum(side * side for side in sides)
        self.scales = ScaleSum(sides=sides, vocabulary=size, channels=dim, phis=phis, ratio=ratio)

    def symbols(self, latents: Latents) -> dict[str, Tensor]:
        rest = latents["tokens"].float()
        check_grid(self.sides, rest.shape[2], rest.shape[3])
        found = []
        for scale in range(len(self.sides)):
            vectors = self.scales.features(rest, scale)
            found.append(self.nearest(vectors.flatten(0, 1)).view(len(rest), -1))
            rest = rest - self.scales.term(found[-1], scale)
        return {"tokens": torch.cat(found, dim=1)}

    def nearest(self, vectors: Tensor) -> Tensor:
        """Tokens of the codes with the least distance, [N, C] -> [N] int64."""
        codes = self.scales.codebook.weight
        squares = codes.square().sum(1)
        pieces = []
        for piece in torch.split(vectors, _PIECE):
            distances = torch.addmm(piece.square().sum(1, keepdim=True) + squares, piece, codes.T, alpha=-2)
            pieces.append(distances.argmin(1))
        return torch.cat(pieces)

    def quantize(self, latents: Latents, block: Block) -> Tensor:
        symbols = self.symbols(latents)[block.name]
        return symbols if block.positions is None else symbols[:, block.positions]

    def dequantize(self, coded: list[Coded], layout: Layout) -> Latents:
        check_grid(self.sides, layout.height, layout.width)
        device, ends = self.scales.codebook.weight.device, [stop for _, stop in scale_spans(self.sides)]
        count = sum(part.symbols.shape[1] for part in coded)
        if count not in ends:
            raise ConfigError(f"{count} tokens are no whole number of scales of {self.sides}, which end at {ends}")
        tokens = torch.zeros(layout.batch, count, dtype=torch.int64, device=device)
        for part in coded:
            tokens[:, slice(None) if part.positions is None else part.positions.to(device)] = part.symbols.to(device)
        return {"tokens": self.f_hat(tokens)[-1]}

    def f_hat(self, tokens: Tensor) -> list[Tensor]:
        """What the first scale, the first two and so on decode to, [B, C, S, S] float32, from their tokens [B, n]."""
        side, sums = self.sides[-1], []
        total = self.scales.codebook.weight.new_zeros(len(tokens), self.scales.channels, side, side)
        for scale, (first, stop) in enumerate(scale_spans(self.sides)):
            if stop <= tokens.shape[1]:
                total = total + self.scales.term(tokens[:, first:stop], scale)
                sums.append(total)
        return sums

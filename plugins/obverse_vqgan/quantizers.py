"""The quantizer of Gumbel VQGAN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obverse.vq import TokenQuantizer


class GumbelQuantizer(TokenQuantizer):
    """The most probable code of a categorical relaxation (arXiv:1611.01144).

    The official code draws a sample also when it does not train, which makes its tokens random; a codec takes the mode
    of the same distribution. There is no distance between what the encoder gives and a code: rate control counts the
    squared distance of other codes from the mode's, which is what they change in the decoder's input.

    Args:
        size: K, number of codes.
        dim: D, width of a code and of the latent.
    """

    def __init__(self, *, size: int, dim: int) -> None:
        super().__init__(size, dim)
        self.proj = nn.Conv2d(dim, size, 1)
        self.embed = nn.Embedding(size, dim)

    def nearest(self, vectors: Tensor) -> Tensor:
        return F.linear(vectors, self.proj.weight[:, :, 0, 0], self.proj.bias).argmax(1)

    def distances(self, vectors: Tensor) -> Tensor:
        mode, codes = self.nearest(vectors), self.embed.weight.float()
        squares = codes.square().sum(1)
        found = squares[mode, None] + squares - 2 * codes[mode] @ codes.T
        return found.scatter(1, mode[:, None], -torch.inf)  # before codes that equal it but for rounding

    def lookup(self, tokens: Tensor) -> Tensor:
        return self.embed(tokens)  # type: ignore[no-any-return]

"""Blocks of convolutional variational autoencoders with many levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, a norm over channels and a perceptron, added to the input (arXiv:2201.03545).

    Args:
        width: channels C of input and output, [B, C, H, W].
        kernel: side of the convolution, odd.
        ratio: hidden channels of the perceptron per channel.
        embedding: length E of a vector that shifts and scales what the norm gives (adaptive norm); 0 for a norm with
            weights of its own.
    """

    modulation: nn.Sequential | None

    def __init__(self, width: int, kernel: int, ratio: float = 2, embedding: int = 0) -> None:
        super().__init__()
        hidden = int(ratio * width)
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=not embedding)
        self.modulation = nn.Sequential(nn.GELU(), nn.Linear(embedding, 2 * width)) if embedding else None
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """[B, C, H, W], with an adaptive norm and a vector [B, E] or [1, E], -> [B, C, H, W]."""
        rows = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        if self.modulation is not None:
            shift, scale = self.modulation(embedding)[:, None, None].chunk(2, -1)
            rows = rows * (1 + scale) + shift
        return x + (self.mlp(rows) * self.gamma).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def bottleneck(inputs: int, hidden: int, outputs: int, kernel: int) -> nn.Sequential:
    """Four convolutions, GELU before each (arXiv:2011.10650), without the residual; the outer two see one cell."""
    sizes = [(inputs, hidden, 1), (hidden, hidden, kernel), (hidden, hidden, kernel), (hidden, outputs, 1)]
    layers: list[nn.Module] = []
    for before, after, side in sizes:
        layers += [nn.GELU(), nn.Conv2d(before, after, side, padding=side // 2)]
    return nn.Sequential(*layers)

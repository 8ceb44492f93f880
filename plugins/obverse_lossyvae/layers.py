"""Layers that the models share, and how far they look."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from obverse.nn.exponential import Exp

LOG_SCALE_SHIFT = 2.3
"""Scales are above exp(-2.3), about 0.1."""


class GaussianParameters(nn.Module):
    """Means and standard deviations from what a prior's last convolution gives.

    Args:
        largest: limit of the logarithms of the standard deviations, or None.
    """

    def __init__(self, largest: float | None = None) -> None:
        super().__init__()
        self.largest = largest
        self.softplus, self.exp = nn.Softplus(), Exp()

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 2 Z, h, w] -> means and standard deviations, each [B, Z, h, w]."""
        mean, log_scale = raw.chunk(2, 1)
        log_scale = self.softplus(log_scale + LOG_SCALE_SHIFT) - LOG_SCALE_SHIFT
        return mean, self.exp(log_scale if self.largest is None else log_scale.clamp(max=self.largest))


def upsample(inputs: int, outputs: int, rate: int = 2) -> nn.Sequential:
    """A 1x1 convolution and a pixel shuffle, [B, inputs, h, w] -> [B, outputs, rate * h, rate * w]."""
    return nn.Sequential(nn.Conv2d(inputs, outputs * rate**2, 1), nn.PixelShuffle(rate))


def reach(*modules: nn.Module) -> int:
    """Cells of the input to each side on which a value depends, as if all convolutions followed each other."""
    convolutions = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return sum((conv.kernel_size[0] - conv.stride[0] + 1) // 2 for conv in convolutions)


def upward_reach(layers: Iterable[nn.Module], stride: int) -> int:
    """Pixels to each side on which the picture depends.

    Args:
        layers: one after the other, pixel shuffles among them.
        stride: pixels per cell of the first one's input.
    """
    pixels = 0
    for layer in layers:
        pixels += reach(layer) * stride
        for part in layer.modules():
            if isinstance(part, nn.PixelShuffle):
                stride //= part.upscale_factor
    return pixels

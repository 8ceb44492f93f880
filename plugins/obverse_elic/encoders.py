"""The transforms of ELIC.

Shape notation:
    B batch, N channels inside and of z, M channels of y, H and W sides of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from obverse.interfaces import Condition, Encoder, Latents
from obverse.nn.gated_attention import AttentionBlock
from obverse.nn.strided import channels_last, convolution, deconvolution


class ResidualBottleneck(nn.Module):
    """x + three convolutions, 1x1, 3x3 and 1x1, at half the channels, [B, C, h, w] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(channels, half, 1)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1)
        self.conv3 = nn.Conv2d(half, channels, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv3(self.relu(self.conv2(self.relu(self.conv1(x)))))  # type: ignore[no-any-return]


class ElicAutoencoder(Encoder, nn.Module):
    """Pictures to y at stride 16, and y to z at stride 64 (arXiv:2203.10886, figure 2).

    Args:
        width: N.
        latent_channels: M.
        hyper_channels: channels of z and inside its analysis; N by default.
    """

    def __init__(self, *, width: int = 192, latent_channels: int = 320, hyper_channels: int | None = None) -> None:
        super().__init__()
        n, m, hyper = width, latent_channels, hyper_channels or width
        self.channels: Mapping[str, int] = {"y": m, "z": hyper}
        self.stride, self.multiple = 16, 64
        # z reaches furthest: 132 pixels of the analysis, and 112 of its own, are less than four cells of 64.
        self.margin = 4
        self.analysis = nn.Sequential(
            convolution(3, n), *_bottlenecks(n),
            convolution(n, n), *_bottlenecks(n), AttentionBlock(n),
            convolution(n, n), *_bottlenecks(n),
            convolution(n, m), AttentionBlock(m),
        )  # fmt: skip
        self.synthesis = nn.Sequential(
            AttentionBlock(m), deconvolution(m, n), *_bottlenecks(n),
            deconvolution(n, n), AttentionBlock(n), *_bottlenecks(n),
            deconvolution(n, n), *_bottlenecks(n),
            deconvolution(n, 3),
        )  # fmt: skip
        self.hyper_analysis = nn.Sequential(
            nn.Conv2d(m, hyper, 3, padding=1), nn.ReLU(),
            convolution(hyper, hyper), nn.ReLU(),
            convolution(hyper, hyper),
        )  # fmt: skip

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        y = self.analysis(channels_last(images)).contiguous()
        return {"y": y, "z": self.hyper_analysis(y)}

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        return self.synthesis(channels_last(latents["y"]))  # type: ignore[no-any-return]


def _bottlenecks(channels: int) -> list[nn.Module]:
    return [ResidualBottleneck(channels) for _ in range(3)]

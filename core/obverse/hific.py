"""The networks of HiFiC (arXiv:2006.09965), which MS-ILLM (arXiv:2301.11189) has too, padded in another way.

Shape notation:
    B batch, M channels of y, N channels of z, h and w sides of y's grid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from obverse.hyperprior import Hyperprior
from obverse.interfaces import Condition, Encoder, Latents
from obverse.nn.channel_norm import ChannelNorm
from obverse.nn.density import FactorizedDensity
from obverse.nn.hyper_synthesis import hyper_synthesis
from obverse.nn.strided import convolution, deconvolution

_HYPER_STRIDE = 4


class HificAutoencoder(Encoder, nn.Module):
    """Latents `y` at stride 16 and hyper-latents `z` at stride 64.

    `encode` also takes sides that are multiples of 16 alone. As in the official code of HiFiC, y is then padded by
    reflection to a multiple of 4, and both arrays are as large as for a picture with sides of the next multiple of 64.

    Args:
        widths: channels per stage of the transforms; the stride is `2 ** (len(widths) - 1)`.
        residual_blocks: of the synthesis, at its coarsest stage.
        latent_channels: M of y [B, M, h, w].
        hyper_channels: N of z [B, N, h / 4, w / 4].
        reflect: pad by reflection (HiFiC); otherwise with zeros.
        signed: pictures are in [-1, 1] inside, where a tanh ends the synthesis; otherwise in [0, 1].
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        residual_blocks: int,
        latent_channels: int,
        hyper_channels: int,
        reflect: bool = False,
        signed: bool = False,
    ) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.multiple = _HYPER_STRIDE * self.stride
        reach = max(_analysis_reach(self.stride), _synthesis_reach(self.stride, residual_blocks))
        self.margin = -(-reach // self.multiple)
        self.channels = {"y": latent_channels, "z": hyper_channels}
        self.signed = signed
        self.analysis = analysis(widths, latent_channels, reflect)
        self.hyper_analysis = hyper_analysis(latent_channels, hyper_channels, reflect)
        self.synthesis = Synthesis(latent_channels, widths, residual_blocks, reflect)

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        y = self.analysis(images * 2 - 1 if self.signed else images)
        bottom, right = (-side % _HYPER_STRIDE for side in y.shape[2:])
        y = reflected(y, (0, right, 0, bottom))
        return {"y": y, "z": self.hyper_analysis(y)}

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        images: Tensor = self.synthesis(latents["y"])
        return (torch.tanh(images) + 1) / 2 if self.signed else images


def _analysis_reach(stride: int) -> int:
    """Pixels to each side on which z depends, and so y: every strided convolution adds a pixel of its input."""
    transform = 3 + (stride - 1) + stride
    hyper = (1 + 2 + 4) * stride
    return transform + hyper


def _synthesis_reach(stride: int, residual_blocks: int) -> int:
    """Pixels to each side on which a pixel depends."""
    coarse = (1 + 2 * residual_blocks) * stride
    doubling = 2 * (stride - 1)
    return coarse + doubling + 3


class Reflection(nn.Module):
    """Padding by reflection.

    Args:
        sides: pixels on the left, on the right, at the top and at the bottom.
    """

    def __init__(self, sides: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        return reflected(x, self.sides)


def reflected(x: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    """[B, C, H, W] padded by reflection; by repeating its edge where it is too small to be reflected."""
    return F.pad(x, sides, mode="reflect" if max(sides) < min(x.shape[2:]) else "replicate")


def _padding(sides: tuple[int, int, int, int], reflect: bool) -> nn.Module:
    return Reflection(sides) if reflect else nn.ZeroPad2d(sides)


def _padded_convolution(inputs: int, outputs: int, kernel: int, reflect: bool, stride: int = 1) -> nn.Sequential:
    side = kernel // 2
    return nn.Sequential(_padding((side,) * 4, reflect), nn.Conv2d(inputs, outputs, kernel, stride=stride))


def analysis(widths: Sequence[int], latent_channels: int, reflect: bool) -> nn.Sequential:
    """[B, 3, H, W] -> y; every stage after the first halves the grid."""
    # Reflection does not pad on both sides where the grid is halved.
    halving = (0, 1, 1, 0) if reflect else (1, 1, 1, 1)
    stages = [nn.Sequential(*_padded_convolution(3, widths[0], 7, reflect), ChannelNorm(widths[0]), nn.ReLU())]
    stages += [
        nn.Sequential(
            _padding(halving, reflect), nn.Conv2d(inputs, outputs, 3, stride=2), ChannelNorm(outputs), nn.ReLU()
        )
        for inputs, outputs in pairwise(widths)
    ]
    last = _padded_convolution(widths[-1], latent_channels, 3, reflect)
    return nn.Sequential(OrderedDict(stages=nn.Sequential(*stages), last=last))


def hyper_analysis(latent_channels: int, hyper_channels: int, reflect: bool) -> nn.Sequential:
    """y -> z. The first convolution is padded with zeros in any case."""
    return nn.Sequential(
        convolution(latent_channels, hyper_channels, kernel=3, stride=1),
        nn.ReLU(),
        _padded_convolution(hyper_channels, hyper_channels, 5, reflect, stride=2),
        nn.ReLU(),
        _padded_convolution(hyper_channels, hyper_channels, 5, reflect, stride=2),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with normalisation, added to the input [B, C, h, w]."""

    def __init__(self, channels: int, reflect: bool) -> None:
        super().__init__()
        self.padding = _padding((1, 1, 1, 1), reflect)
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3), ChannelNorm(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3), ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(self.padding(x))))
        return x + self.norm2(self.conv2(self.padding(inner)))  # type: ignore[no-any-return]


class Synthesis(nn.Module):
    """y [B, M, h, w] -> pictures [B, 3, H, W], before a tanh: HiFiC's generator."""

    def __init__(self, latent_channels: int, widths: Sequence[int], residual_blocks: int, reflect: bool) -> None:
        super().__init__()
        width = widths[-1]
        self.head = nn.Sequential(
            ChannelNorm(latent_channels), *_padded_convolution(latent_channels, width, 3, reflect), ChannelNorm(width)
        )
        self.blocks = nn.Sequential(*(ResidualBlock(width, reflect) for _ in range(residual_blocks)))
        self.doubling = nn.Sequential(
            *(
                nn.Sequential(deconvolution(inputs, outputs, kernel=3), ChannelNorm(outputs), nn.ReLU())
                for inputs, outputs in pairwise(reversed(widths))
            )
        )
        self.last = _padded_convolution(widths[0], 3, 7, reflect)

    def forward(self, y: Tensor) -> Tensor:
        head = self.head(y)
        return self.last(self.doubling(head + self.blocks(head)))  # type: ignore[no-any-return]


class HificHyperprior(Hyperprior):
    """A hyperprior with a network for the means and one for the scales, which nothing but the floor keeps positive.

    Args:
        latent_channels: M of y.
        hyper_channels: N of z.
        density: of z.
    """

    def __init__(self, *, latent_channels: int, hyper_channels: int, density: FactorizedDensity) -> None:
        super().__init__(density=density, stride=_HYPER_STRIDE)
        widths = (hyper_channels, hyper_channels, latent_channels)
        self.mean, self.scale = (hyper_synthesis(hyper_channels, widths) for _ in range(2))

    def parameters_of(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.scale(z), self.mean(z)

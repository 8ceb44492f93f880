"""QRes-VAE (arXiv:2208.13056): one network per rate.

Shape notation as in `obverse_lossyvae.top_down`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.interfaces import Condition, Encoder, Latents
from obverse.nn.convnext import ConvNeXtBlock, bottleneck
from obverse.nn.exponential import Exp
from obverse.nn.strided import deconvolution
from obverse_lossyvae.bottom_up import BottomUp
from obverse_lossyvae.layers import GaussianParameters, reach, upsample
from obverse_lossyvae.top_down import Entry, LatentBlock, Posterior, TopDownPrior, TopDownQuantizer, per_level

IMAGE_RATE = 4
"""Pixels per cell of the finest grid."""

HALF_RANGE = 127.5
IMAGE = "image"
"""Name of the picture among the encoder's latents, where it is coded too."""


def entry(width: int, latents: int, kernel: int) -> Entry:
    """Where latents of a block with such convolutions enter."""
    hidden, side = width // 8, 3 if kernel >= 3 else 1
    projection = nn.Sequential(
        nn.Conv2d(latents, hidden, side, padding=side // 2), nn.GELU(), nn.Conv2d(hidden, width, 1)
    )
    return Entry(projection, ConvNeXtBlock(width, kernel))


class ResidualBlock(LatentBlock):
    """A ConvNeXt block sees the feature, a bottleneck predicts the latents.

    Args:
        width, latents: W and Z.
        kernel: side of the depthwise convolutions.
        last: no block follows.
    """

    def __init__(self, width: int, latents: int, kernel: int, last: bool = False) -> None:
        super().__init__(None if last else entry(width, latents, kernel))
        self.front = ConvNeXtBlock(width, kernel)
        self.head = bottleneck(width, width // 4, 2 * latents, 3 if kernel >= 3 else 1)
        self.parameters_of = GaussianParameters()

    def view(self, feature: Tensor, embedding: Tensor | None) -> dict[str, Tensor]:
        feature = self.front(feature)
        mean, scale = self.parameters_of(self.head(feature))
        return {"feature": feature, "mean": mean, "scale": scale}


class PixelBlock(LatentBlock):
    """After the last latents of a lossless model: pixels, with means on their grid of integers.

    Args:
        width: W.
    """

    def __init__(self, width: int) -> None:
        super().__init__(None)
        self.mean, self.log_scale = upsample(width, 3, IMAGE_RATE), upsample(width, 3, IMAGE_RATE)
        self.exp = Exp()

    def view(self, feature: Tensor, embedding: Tensor | None) -> dict[str, Tensor]:
        """Of pixels from 0 to 255, [B, 3, H, W]; the networks count from -1 to 1."""
        mean = (self.mean(feature) * HALF_RANGE + HALF_RANGE).round()
        return {"feature": feature, "mean": mean, "scale": self.exp(self.log_scale(feature)) * HALF_RANGE}


class PixelPosterior(Posterior):
    """The pixels themselves, from 0 to 255."""

    def forward(self, feature: Tensor, encoded: Tensor, embedding: Tensor | None = None) -> Tensor:
        return (encoded * 255).round()


class BottleneckPosterior(Posterior):
    """A bottleneck that sees both features."""

    def __init__(self, width: int, encoded: int, latents: int, kernel: int) -> None:
        super().__init__()
        self.layers = bottleneck(width + encoded, max(width, encoded) // 4, latents, 3 if kernel >= 3 else 1)

    def forward(self, feature: Tensor, encoded: Tensor, embedding: Tensor | None = None) -> Tensor:
        return self.layers(torch.cat([feature, encoded], 1))  # type: ignore[no-any-return]


class Repeat(nn.Module):
    """Every cell `rate` times along each side."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.rate, 2).repeat_interleave(self.rate, 3)


def to_finer(kind: str, inputs: int, outputs: int) -> tuple[nn.Module, int]:
    """The layer between two grids, and how many times finer the second is.

    Args:
        kind: `shuffle-2`, `repeat-4`, `deconvolution-3` and so on: a pixel shuffle or repeated cells with their rate,
            or a transposed convolution of rate 2 with its side.
        inputs, outputs: W before and after.

    Raises:
        ConfigError: another kind, or repeated cells that would change the width.
    """
    name, _, number = kind.partition("-")
    if number.isdigit() and int(number):
        size = int(number)
        if name == "shuffle":
            return upsample(inputs, outputs, size), size
        if name == "repeat" and inputs == outputs:
            return Repeat(size), size
        if name == "deconvolution":
            return deconvolution(inputs, outputs, size), 2
    raise ConfigError(f"no way {kind!r} from {inputs} to {outputs} channels (shuffle-N, repeat-N, deconvolution-N)")


class QResPrior(TopDownPrior):
    """The top-down path of QRes-VAE.

    Args:
        widths, latents, blocks, kernels: W, Z, latent blocks and sides of convolutions on each grid, from the coarsest.
        ups: from each grid to the next, as for `to_finer`; pixel shuffles by default.
        lossless: the last array is the pixels themselves.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        latents: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
        ups: Sequence[str] | None = None,
        lossless: bool = False,
    ) -> None:
        per_level(widths=widths, latents=latents, blocks=blocks, kernels=kernels)
        ups = ["shuffle-2"] * (len(widths) - 1) if ups is None else ups
        if len(ups) != len(widths) - 1:
            raise ConfigError(f"{len(widths)} grids have {len(widths) - 1} ways between them, not ups {list(ups)}")
        layers: list[nn.Module] = []
        rates = []
        for level, (width, channels, count, kernel) in enumerate(zip(widths, latents, blocks, kernels, strict=True)):
            if level:
                way, rate = to_finer(ups[level - 1], widths[level - 1], width)
                layers.append(way)
                rates.append(rate)
            for i in range(count):
                last = level == len(widths) - 1 and i == count - 1 and not lossless
                layers.append(ResidualBlock(width, channels, kernel, last))
        if lossless:
            layers.append(PixelBlock(widths[-1]))
        super().__init__(layers, width=widths[0], multiple=prod(rates))


class QResQuantizer(TopDownQuantizer):
    """The posteriors of QRes-VAE.

    Args:
        channels: of the encoder's features, and of the picture where the encoder hands that over too.
        widths, latents, blocks, kernels: as for `QResPrior`.
    """

    decoded: ClassVar[slice] = slice(-1, None)

    def __init__(
        self,
        *,
        channels: Mapping[str, int],
        widths: Sequence[int],
        latents: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
    ) -> None:
        features = {name: count for name, count in channels.items() if name != IMAGE}
        per_level(channels=list(features), widths=widths, latents=latents, blocks=blocks, kernels=kernels)
        levels = zip(widths, features.values(), latents, kernels, blocks, strict=True)
        posteriors: list[Posterior] = [BottleneckPosterior(*level) for *level, count in levels for _ in range(count)]
        if IMAGE in channels:
            posteriors.append(PixelPosterior())
            blocks = [*blocks, 1]
        super().__init__(channels=channels, blocks=blocks, posteriors=posteriors)


class BottomUpEncoder(Encoder, nn.Module):
    """The bottom-up path of QRes-VAE.

    Args:
        widths, blocks, kernels, rates: as for `BottomUp`.
        shift, scale: the network sees (image + shift) * scale.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
        rates: Sequence[int],
        shift: float,
        scale: float,
    ) -> None:
        super().__init__()
        self.analysis = BottomUp(widths=widths, blocks=blocks, kernels=kernels, rates=rates)
        self.shift, self.scale = shift, scale
        strides = self.analysis.strides
        self.stride, self.multiple = strides[0], strides[-1]
        self.channels: Mapping[str, int] = {
            f"s{stride}": width for stride, width in zip(reversed(strides), reversed(widths), strict=True)
        }
        self.margin = -(-self.analysis.margin // self.multiple)

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        features = self.analysis((images + self.shift) * self.scale)
        return {f"s{stride}": features[stride] for stride in reversed(self.analysis.strides)}


class LosslessEncoder(BottomUpEncoder):
    """The bottom-up path, and the picture itself, which a lossless QRes-VAE codes after the last latents.

    Args:
        widths, blocks, kernels, rates, shift, scale: as for `BottomUpEncoder`.
        last_block: number of the array of pixels.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
        rates: Sequence[int] = (4, 2, 2, 2, 2),
        last_block: int,
        shift: float = -0.4546259594901961,
        scale: float = 3.67572653978347,
    ) -> None:
        super().__init__(widths=widths, blocks=blocks, kernels=kernels, rates=rates, shift=shift, scale=scale)
        self.last = f"z{last_block}"
        self.channels = {**self.channels, IMAGE: 3}

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        return {**super().encode(images, condition), IMAGE: images}

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        return latents[self.last] / 255


class QResEncoder(BottomUpEncoder):
    """The bottom-up path of QRes-VAE, and what follows the last latents.

    Args:
        widths, blocks, kernels, rates, shift, scale: as for `BottomUpEncoder`.
        last_width, last_latents, last_kernel: W, Z and side of convolutions of the last latent block.
        last_block: number of the last latent block.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
        rates: Sequence[int] = (4, 2, 2, 2, 2),
        last_width: int,
        last_latents: int,
        last_kernel: int,
        last_block: int,
        shift: float = -0.4546259594901961,
        scale: float = 3.67572653978347,
    ) -> None:
        super().__init__(widths=widths, blocks=blocks, kernels=kernels, rates=rates, shift=shift, scale=scale)
        self.entry = entry(last_width, last_latents, last_kernel)
        self.synthesis = upsample(last_width, 3, IMAGE_RATE)
        self.last = f"z{last_block}"
        self.margin = -(-max(self.analysis.margin, reach(self.entry) * self.stride) // self.multiple)

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        feature = self.entry(latents[f"{self.last}.feature"], latents[self.last])
        return self.synthesis(feature) / 2 + 0.5  # type: ignore[no-any-return]

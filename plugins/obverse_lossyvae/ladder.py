"""The top-down path of QARV and DHVC: on each grid one more block before and after its latent blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from obverse.nn.convnext import ConvNeXtBlock
from obverse_lossyvae.layers import upsample
from obverse_lossyvae.top_down import Posterior, TopDownQuantizer, per_level

IMAGE_RATE = 4
"""Pixels per cell of the finest grid."""


def ladder(
    latent_block: Callable[[int, bool], nn.Module],
    *,
    widths: Sequence[int],
    blocks: Sequence[int],
    kernels: Sequence[int],
    ratios: Sequence[float],
    embedding: int = 0,
) -> list[nn.Module]:
    """The layers from the constant to the last latent block.

    Args:
        latent_block: makes one from the number of its grid, and whether it is the last of all.
        widths, blocks, kernels, ratios: W, latent blocks, sides of convolutions and ratios of perceptrons on each grid,
            from the coarsest.
        embedding: as for `ConvNeXtBlock`.
    """
    layers: list[nn.Module] = []
    for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        final = level == len(widths) - 1
        sizes = width, kernels[level], ratios[level], embedding
        if level:
            layers += [upsample(widths[level - 1], width), ConvNeXtBlock(*sizes)]
        layers += [latent_block(level, final and i == count - 1) for i in range(count)]
        if not final:
            layers.append(ConvNeXtBlock(*sizes))
    return layers


def to_picture(
    last: ConvNeXtBlock, width: int, *, fine_width: int, blocks: int, kernel: int, ratio: float, embedding: int = 0
) -> list[nn.Module]:
    """The layers from the last latent block to the picture.

    Args:
        last: the block after the last latents.
        width: W there.
        fine_width, blocks, kernel, ratio: of the blocks on the grid without latents.
        embedding: as for `ConvNeXtBlock`.
    """
    fine = [ConvNeXtBlock(fine_width, kernel, ratio, embedding) for _ in range(blocks)]
    return [last, upsample(width, fine_width), *fine, upsample(fine_width, 3, IMAGE_RATE)]


class MergingPosterior(Posterior):
    """ConvNeXt blocks see each feature, then both.

    Args:
        width, encoded, latents: W, channels of the encoder's feature, Z.
        kernel: side of the depthwise convolutions.
        embedding: as for `ConvNeXtBlock`.
    """

    def __init__(self, width: int, encoded: int, latents: int, kernel: int, embedding: int = 0) -> None:
        super().__init__()
        self.of_encoded = ConvNeXtBlock(encoded, kernel, embedding=embedding)
        self.of_feature = ConvNeXtBlock(width, kernel, embedding=embedding)
        self.merge = nn.Conv2d(width + encoded, width, 1)
        self.of_both = ConvNeXtBlock(width, kernel, embedding=embedding)
        self.head = nn.Conv2d(width, latents, 3, padding=1)

    def forward(self, feature: Tensor, encoded: Tensor, embedding: Tensor | None = None) -> Tensor:
        both = torch.cat([self.of_feature(feature, embedding), self.of_encoded(encoded, embedding)], 1)
        return self.head(self.of_both(self.merge(both), embedding))  # type: ignore[no-any-return]


class LadderQuantizer(TopDownQuantizer):
    """The posteriors of a ladder.

    Args:
        channels: of the encoder's features.
        widths, latents, blocks, kernels: W, Z, latent blocks and sides of convolutions on each grid, from the coarsest.
        embedding: as for `ConvNeXtBlock`.
    """

    def __init__(
        self,
        *,
        channels: Mapping[str, int],
        widths: Sequence[int],
        latents: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
        embedding: int = 0,
    ) -> None:
        per_level(channels=list(channels), widths=widths, latents=latents, blocks=blocks, kernels=kernels)
        levels = zip(widths, channels.values(), latents, kernels, blocks, strict=True)
        posteriors = [
            MergingPosterior(width, encoded, channel_count, kernel, embedding)
            for width, encoded, channel_count, kernel, count in levels
            for _ in range(count)
        ]
        super().__init__(channels=channels, blocks=blocks, posteriors=posteriors)

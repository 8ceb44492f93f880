"""The intra codec of DHVC 1.0 (arXiv:2403.12598): a video codec's first frame, predicted from learned constants.

Shape notation as in `obverse_lossyvae.top_down`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from obverse.interfaces import Condition, Encoder, Latents
from obverse.nn.convnext import ConvNeXtBlock
from obverse_lossyvae.bottom_up import BottomUp
from obverse_lossyvae.ladder import IMAGE_RATE, LadderQuantizer, ladder, to_picture
from obverse_lossyvae.layers import GaussianParameters, upward_reach
from obverse_lossyvae.qarv import adaptive_entry
from obverse_lossyvae.top_down import Entry, LatentBlock, TopDownPrior, per_level

LARGEST_LOG_SCALE = 10.0


class UNet(nn.Module):
    """Blocks of one width whose results are looked at again in reverse order; all on one grid.

    Args:
        inputs, hidden, outputs: channels.
        kernel: side of the depthwise convolutions.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int) -> None:
        super().__init__()
        blocks = [ConvNeXtBlock(hidden, kernel) for _ in range(3)]
        merges = [
            nn.Sequential(ConvNeXtBlock(2 * hidden, kernel), nn.Conv2d(2 * hidden, hidden, 3, padding=1))
            for _ in range(2)
        ]
        last = nn.Conv2d(2 * hidden, outputs, 3, padding=1)
        self.down = nn.ModuleList([nn.Conv2d(inputs, hidden, 3, padding=1), *blocks])
        self.up = nn.ModuleList([ConvNeXtBlock(hidden, kernel), *merges, last])

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for layer in self.down:
            x = layer(x)
            seen.append(x)
        x = self.up[0](x)
        for layer, before in zip(self.up[1:], reversed(seen[:-1]), strict=True):
            x = layer(torch.cat([x, before], 1))
        return x


class TemporalContext(nn.Module):
    """What two frames before tell about a feature.

    Args:
        width: W.
        hidden: width of the networks inside.
        kernel: side of the depthwise convolutions.
    """

    def __init__(self, width: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.past, self.present = (UNet(2 * width, hidden, width, kernel) for _ in range(2))
        self.end = ConvNeXtBlock(width, kernel)

    def forward(self, feature: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Features of this frame and of the two before, each [B, W, h, w], to a context of that shape."""
        past = self.past(torch.cat([first, second], 1))
        return self.end(self.present(torch.cat([feature, past], 1)))  # type: ignore[no-any-return]


class IntraBlock(LatentBlock):
    """A latent block of the first frame: a learned constant stands for both frames before it.

    Args:
        width, latents: W and Z.
        kernel, ratio: as for `ConvNeXtBlock`.
        temporal: as `hidden` of `TemporalContext`.
        last: no block follows.
    """

    def __init__(self, width: int, latents: int, kernel: int, ratio: float, temporal: int, last: bool = False) -> None:
        super().__init__(None if last else adaptive_entry(width, latents, kernel, ratio))
        self.front = ConvNeXtBlock(width, kernel, ratio)
        self.past = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.temporal = TemporalContext(width, temporal, kernel)
        self.head = nn.Conv2d(width, 2 * latents, 1)
        self.parameters_of = GaussianParameters(LARGEST_LOG_SCALE)

    def view(self, feature: Tensor, embedding: Tensor | None) -> dict[str, Tensor]:
        feature = self.front(feature)
        past = self.past.expand_as(feature)
        temporal = self.temporal(feature, past, past)
        mean, scale = self.parameters_of(self.head(temporal))
        return {"feature": feature, "temporal": temporal, "mean": mean, "scale": scale}


class IntraPrior(TopDownPrior):
    """The top-down path of the first frame.

    Args:
        widths, latents, blocks, kernels, ratios: W, Z, latent blocks, sides of convolutions and ratios of perceptrons
            on each grid, from the coarsest.
        temporal: as `hidden` of `TemporalContext`.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        latents: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
        ratios: Sequence[float],
        temporal: int,
    ) -> None:
        per_level(widths=widths, latents=latents, blocks=blocks, kernels=kernels, ratios=ratios)

        def latent_block(level: int, last: bool) -> IntraBlock:
            return IntraBlock(widths[level], latents[level], kernels[level], ratios[level], temporal, last)

        layers = ladder(latent_block, widths=widths, blocks=blocks, kernels=kernels, ratios=ratios)
        super().__init__(layers, width=widths[0], multiple=2 ** (len(widths) - 1))


class IntraQuantizer(LadderQuantizer):
    """The posteriors of DHVC; arguments as for `LadderQuantizer`."""

    kept: ClassVar[tuple[str, ...]] = ("feature", "temporal")


class Fusion(nn.Module):
    """A second path, down to the picture, takes what a latent block knows.

    Args:
        entry: where the latents enter.
        width: W.
        kernel, ratio: as for `ConvNeXtBlock`.
    """

    def __init__(self, entry: Entry, width: int, kernel: int, ratio: float) -> None:
        super().__init__()
        self.entry = entry
        self.merge = nn.Conv2d(3 * width, width, 1)
        self.block = ConvNeXtBlock(width, kernel, ratio)

    def forward(self, picture: Tensor | None, feature: Tensor, temporal: Tensor, z: Tensor) -> Tensor:
        """Features [B, W, h, w] of the second path, None before the first one, from the block's view and latents."""
        feature = self.entry(feature, z)
        if picture is None:
            picture = torch.zeros_like(feature)
        return self.block(self.merge(torch.cat([feature, picture, temporal], 1)))  # type: ignore[no-any-return]


class IntraEncoder(Encoder, nn.Module):
    """The bottom-up path of DHVC, and its path down to the picture.

    Args:
        widths, blocks, kernels, rates: of the bottom-up path, as for `BottomUp`; its finest grid has no latents.
        level_widths, latents, level_blocks, level_kernels, level_ratios: of the way down, as for `IntraPrior`.
        fine_width, fine_blocks, fine_kernel, fine_ratio: of the blocks on the grid that is finer than all latents.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
        rates: Sequence[int] = (4, 2, 2, 2, 2),
        level_widths: Sequence[int],
        latents: Sequence[int],
        level_blocks: Sequence[int],
        level_kernels: Sequence[int],
        level_ratios: Sequence[float],
        fine_width: int,
        fine_blocks: int,
        fine_kernel: int,
        fine_ratio: float,
    ) -> None:
        super().__init__()
        per_level(
            level_widths=level_widths,
            latents=latents,
            level_blocks=level_blocks,
            level_kernels=level_kernels,
            level_ratios=level_ratios,
        )

        def fusion(level: int, last: bool) -> Fusion:
            sizes = level_kernels[level], level_ratios[level]
            entry = adaptive_entry(level_widths[level], latents[level], *sizes)
            return Fusion(entry, level_widths[level], *sizes)

        self.analysis = BottomUp(widths=widths, blocks=blocks, kernels=kernels, rates=rates, overlap=True)
        path = ladder(fusion, widths=level_widths, blocks=level_blocks, kernels=level_kernels, ratios=level_ratios)
        last = ConvNeXtBlock(level_widths[-1], level_kernels[-1], level_ratios[-1])
        above = to_picture(
            last, level_widths[-1], fine_width=fine_width, blocks=fine_blocks, kernel=fine_kernel, ratio=fine_ratio
        )
        self.synthesis = nn.ModuleList([*path, *above])
        strides = self.analysis.strides
        self.stride, self.multiple = 2 * IMAGE_RATE, strides[-1]
        grids = list(zip(strides, widths, strict=True))[1:]
        self.channels = {f"s{stride}": width for stride, width in reversed(grids)}
        self.margin = -(-max(self.analysis.margin, upward_reach(self.synthesis, self.multiple)) // self.multiple)

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        features = self.analysis(images)
        return {name: features[int(name.removeprefix("s"))] for name in self.channels}

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        picture: Tensor | None = None
        index = 0
        for layer in self.synthesis:
            if isinstance(layer, Fusion):
                name = f"z{index}"
                picture = layer(picture, latents[f"{name}.feature"], latents[f"{name}.temporal"], latents[name])
                index += 1
            else:
                picture = layer(picture)
        assert picture is not None
        return picture

"""From pictures to features on finer and coarser grids."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.nn.convnext import ConvNeXtBlock
from obverse_lossyvae.layers import reach

BRIDGE_KERNEL = 7


class Stage(nn.Module):
    """A grid is made coarser, and features are refined on it.

    Args:
        inputs, width: channels before and after.
        rate: how many times coarser.
        overlap: 3x3 windows in place of windows of `rate` cells that do not overlap.
        bridge: one more block on the finer grid, before it is left.
        blocks, kernel: on the coarser grid.
        embedding: as for `ConvNeXtBlock`.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        rate: int,
        overlap: bool = False,
        bridge: bool = True,
        blocks: int,
        kernel: int,
        embedding: int = 0,
    ) -> None:
        super().__init__()
        self.bridge = ConvNeXtBlock(inputs, BRIDGE_KERNEL, embedding=embedding) if bridge else None
        self.down = nn.Conv2d(inputs, width, 3 if overlap else rate, stride=rate, padding=int(overlap))
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, kernel, embedding=embedding) for _ in range(blocks))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        if self.bridge is not None:
            x = self.bridge(x, embedding)
        x = self.down(x)
        for block in self.blocks:
            x = block(x, embedding)
        return x


class BottomUp(nn.Module):
    """Pictures [B, 3, H, W] to features on every grid.

    Args:
        widths, blocks, kernels: of the stages, from the finest grid.
        rates: how many times coarser each grid is than the one before, or than the picture.
        overlap, embedding: as for `Stage`.

    Attributes:
        strides: pixels per cell of every grid.
        margin: pixels to each side on which features depend.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
        rates: Sequence[int],
        overlap: bool = False,
        embedding: int = 0,
    ) -> None:
        super().__init__()
        if not len(widths) == len(blocks) == len(kernels) == len(rates):
            raise ConfigError(
                f"widths {list(widths)}, blocks {list(blocks)}, kernels {list(kernels)} and rates {list(rates)} must "
                "have one entry for each grid"
            )
        self.stages = nn.ModuleList()
        self.strides: list[int] = []
        self.margin, stride, inputs = 0, 1, 3
        for width, count, kernel, rate in zip(widths, blocks, kernels, rates, strict=True):
            first = not self.stages
            stage = Stage(
                inputs,
                width,
                rate=rate,
                overlap=overlap and not first,
                bridge=not first,
                blocks=count,
                kernel=kernel,
                embedding=embedding,
            )
            self.margin += reach(stage.down, *([stage.bridge] if stage.bridge else [])) * stride
            stride, inputs = stride * rate, width
            self.margin += reach(stage.blocks) * stride
            self.strides.append(stride)
            self.stages.append(stage)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> dict[int, Tensor]:
        """Features by stride."""
        features = {}
        for stride, stage in zip(self.strides, self.stages, strict=True):
            features[stride] = x = stage(x, embedding)
        return features

"""DHIC: the variable-rate intra codec beside DHVC, without norms, with a table of gains per operating point.

Shape notation as in `obverse_lossyvae.top_down`; N points in the model's tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from obverse.errors import ConfigError
from obverse.interfaces import Condition, Encoder, Latents
from obverse.nn.exponential import Exp
from obverse_lossyvae.layers import GaussianParameters, reach, upsample, upward_reach
from obverse_lossyvae.top_down import Entry, LatentBlock, Posterior, TopDownPrior, TopDownQuantizer, per_level

LARGEST_LOG_SCALE = 10.0
CELL = 8
"""Pixels per cell of the finest grid."""


class WSiLU(nn.Module):
    """x sigmoid(4 x)."""

    def __init__(self) -> None:
        super().__init__()
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.sigmoid(4 * x) * x  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two 1x1 convolutions, added to the input; halves of the hidden channels are added up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen, self.act, self.narrow = nn.Conv2d(width, 4 * width, 1), WSiLU(), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.act(self.widen(x)).chunk(2, 1)
        return x + self.narrow(first + second)  # type: ignore[no-any-return]


class Depthwise(nn.Module):
    """3x3 and 1x1 depthwise convolutions and the input, added up (RepVGG, arXiv:2101.03697)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.neighbours = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.cell = nn.Conv2d(width, width, 1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return self.neighbours(x) + self.cell(x) + x  # type: ignore[no-any-return]


class MixingBlock(nn.Module):
    """1x1 and depthwise convolutions and a feed-forward layer, added to the input.

    Args:
        inputs: channels of the input.
        width: inside; by default as the input.
        outputs: channels of the result; by default as inside.
    """

    def __init__(self, inputs: int, width: int | None = None, outputs: int | None = None) -> None:
        super().__init__()
        width = width or inputs
        outputs = outputs or width
        self.first, self.act, self.mixer = nn.Conv2d(inputs, width, 1), WSiLU(), Depthwise(width)
        self.second, self.feed_forward = nn.Conv2d(width, width, 1), FeedForward(width)
        self.last = nn.Conv2d(width, outputs, 1) if outputs != width else nn.Identity()
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if outputs != inputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.mixer(self.act(self.first(x))))
        return self.last(self.feed_forward(y)) + self.shortcut(x)  # type: ignore[no-any-return]


def gain(points: int, width: int) -> nn.Parameter:
    """A table of logarithms of factors, [N, W, 1, 1]; new ones are 0."""
    return nn.Parameter(torch.zeros(points, width, 1, 1))


def climb(inner: Sequence[Sequence[nn.Module]], widths: Sequence[int]) -> list[nn.Module]:
    """The layers of a path from the coarsest grid to the finest.

    Args:
        inner: on each grid.
        widths: W on each grid.
    """
    layers: list[nn.Module] = []
    for level, own in enumerate(inner):
        if level:
            layers += [upsample(widths[level - 1], widths[level]), FeedForward(widths[level])]
        layers += own
    return layers


def checked_points(points: Sequence[int], table: int) -> list[int]:
    """Rows of the model's tables, one per operating point.

    Raises:
        ConfigError: they are not rising, or not in the tables.
    """
    chosen = list(points)
    if not chosen or chosen != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < table:
        raise ConfigError(f"points {chosen} are not rising numbers from 0 to {table - 1}")
    return chosen


class GainBlock(LatentBlock):
    """A 1x1 convolution predicts the latents from the feature times a gain, in steps that depend on the point too.

    The mean is divided by the step, the standard deviation by its square, as in the official code.

    Args:
        width, latents: W and Z.
        table: N.
        last: no block follows.
    """

    def __init__(self, width: int, latents: int, table: int, last: bool = False) -> None:
        super().__init__(None if last else Entry(nn.Conv2d(latents, width, 1)))
        self.log_gain, self.log_step = gain(table, width), gain(table, latents)
        self.head = nn.Conv2d(width, 2 * latents, 1)
        self.parameters_of, self.exp = GaussianParameters(LARGEST_LOG_SCALE), Exp()

    def view(self, feature: Tensor, embedding: Tensor | None) -> dict[str, Tensor]:
        assert embedding is not None, "the point"
        point = embedding[:1, 0]
        mean, scale = self.parameters_of(self.head(feature * self.exp(self.log_gain[point])))
        step = self.exp(self.log_step[point])
        return {
            "feature": feature,
            "mean": mean / step,
            "scale": scale / (step * step),
            "step": step.expand(len(feature), -1, -1, -1),
        }


class DHICPrior(TopDownPrior):
    """The path of DHIC that predicts latents.

    Args:
        widths, latents: W and Z on each grid, from the coarsest.
        before, after: blocks before and after the latents on each grid; after the last latents there are none.
        points: rows of the tables that are the operating points, from the smallest files.
        table: N.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        latents: Sequence[int],
        before: Sequence[int],
        after: Sequence[int],
        points: Sequence[int],
        table: int = 64,
    ) -> None:
        per_level(widths=widths, latents=latents, before=before, after=[*after, 0])
        last = len(widths) - 1
        inner: list[list[nn.Module]] = [
            [
                *(MixingBlock(width) for _ in range(before[level])),
                GainBlock(width, latents[level], table, level == last),
                *(MixingBlock(width) for _ in range([*after, 0][level])),
            ]
            for level, width in enumerate(widths)
        ]
        super().__init__(climb(inner, widths), width=widths[0], multiple=2**last)
        self.points = checked_points(points, table)
        self.qualities = len(self.points)

    def embedding(self, condition: Condition) -> Tensor:
        """The row of the tables, [1, 1] int64."""
        return torch.tensor([[self.points[condition.quality]]], device=self.bias.device)


class MixingPosterior(Posterior):
    """Blocks see the encoder's feature, then both features."""

    def __init__(self, width: int, encoded: int, latents: int) -> None:
        super().__init__()
        self.of_encoded, self.of_both = MixingBlock(encoded), MixingBlock(width + encoded, width, latents)

    def forward(self, feature: Tensor, encoded: Tensor, embedding: Tensor | None = None) -> Tensor:
        return self.of_both(torch.cat([feature, self.of_encoded(encoded)], 1))  # type: ignore[no-any-return]


class DHICQuantizer(TopDownQuantizer):
    """The posteriors of DHIC.

    Args:
        channels: of the encoder's features.
        widths, latents: as for `DHICPrior`.
    """

    def __init__(self, *, channels: Mapping[str, int], widths: Sequence[int], latents: Sequence[int]) -> None:
        per_level(channels=list(channels), widths=widths, latents=latents)
        posteriors = [MixingPosterior(*sizes) for sizes in zip(widths, channels.values(), latents, strict=True)]
        super().__init__(channels=channels, blocks=[1] * len(widths), posteriors=posteriors)


class Merge(nn.Module):
    """The path to the picture takes what a latent block knows, before and after its latents.

    Args:
        width, latents: W and Z.
        table: N.
    """

    def __init__(self, width: int, latents: int, table: int) -> None:
        super().__init__()
        self.entry = Entry(nn.Conv2d(latents, width, 1))
        self.log_gain = gain(table, width)
        self.block, self.last = MixingBlock(3 * width), nn.Conv2d(3 * width, width, 1)

    def forward(self, picture: Tensor, feature: Tensor, z: Tensor, point: int) -> Tensor:
        """Features [B, W, h, w] of the path to the picture, from the block's view and latents."""
        factor = self.log_gain[point].exp()
        known = torch.cat([picture, self.entry(feature, z) * factor, feature * factor], 1)
        return self.last(self.block(known))  # type: ignore[no-any-return]


class DHICEncoder(Encoder, nn.Module):
    """The bottom-up path of DHIC, and its path to the picture.

    Args:
        widths, blocks: of the bottom-up path, from the finest grid, of 8x8 pixels a cell.
        stem_blocks: on the 192 pixels and colours of each cell, before all else.
        level_widths, latents: as for `DHICPrior`.
        before, after: blocks before and after latents are merged on each grid, from the coarsest.
        points, table: as for `DHICPrior`.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        stem_blocks: int,
        level_widths: Sequence[int],
        latents: Sequence[int],
        before: Sequence[int],
        after: Sequence[int],
        points: Sequence[int],
        table: int = 64,
    ) -> None:
        super().__init__()
        per_level(widths=widths, blocks=blocks)
        per_level(level_widths=level_widths, latents=latents, before=before, after=after)
        stem = 3 * CELL**2
        self.stem = nn.Sequential(nn.PixelUnshuffle(CELL), *(MixingBlock(stem) for _ in range(stem_blocks)))
        self.stages = nn.ModuleList()
        self.stride, stride = CELL, CELL
        margin, grids = reach(self.stem) * CELL, {}
        for before_it, width, count in zip((stem, *widths), widths, blocks, strict=False):
            first = not self.stages
            down = nn.Conv2d(before_it, width, 3, padding=1, bias=False) if first else nn.Conv2d(before_it, width, 2, 2)
            stage = nn.Sequential(down, *(MixingBlock(width) for _ in range(count)))
            margin += reach(down) * stride
            stride *= 1 if first else 2
            margin += reach(stage[1:]) * stride
            grids[f"s{stride}"] = width
            self.stages.append(stage)
        self.multiple = stride
        self.channels = dict(reversed(grids.items()))
        self.log_gains = nn.ParameterList(gain(table, width) for width in reversed(widths))
        self.bias = nn.Parameter(torch.zeros(1, level_widths[0], 1, 1))
        inner: list[list[nn.Module]] = [
            [
                *(MixingBlock(width) for _ in range(first)),
                Merge(width, channels, table),
                *(MixingBlock(width) for _ in range(second)),
            ]
            for width, channels, first, second in zip(level_widths, latents, before, after, strict=True)
        ]
        picture = [nn.Conv2d(level_widths[-1], stem, 3, padding=1, bias=False), nn.PixelShuffle(CELL)]
        self.synthesis = nn.ModuleList([*climb(inner, level_widths), *picture])
        self.points = checked_points(points, table)
        self.qualities = len(self.points)
        self.margin = -(-max(margin, upward_reach(self.synthesis, self.multiple)) // self.multiple)

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        point = self.points[condition.quality]
        feature, features = self.stem(images), []
        for stage in self.stages:
            feature = stage(feature)
            features.append(feature)
        modulated = zip(self.channels, reversed(features), self.log_gains, strict=True)
        return {name: feature * gains[point].exp() for name, feature, gains in modulated}

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        point = self.points[condition.quality]
        coarsest = latents["z0"]
        picture = self.bias.expand(len(coarsest), -1, *coarsest.shape[2:])
        index = 0
        for layer in self.synthesis:
            if isinstance(layer, Merge):
                picture = layer(picture, latents[f"z{index}.feature"], latents[f"z{index}"], point)
                index += 1
            else:
                picture = layer(picture)
        return picture

"""The convolutional autoencoder of VQGAN (arXiv:2012.09841), which LlamaGen, VAR, Chameleon and Cosmos share.

Names of parameters are those of taming-transformers.

Shape notation:
    B batch, C channels, H and W pixels, h and w cells of the latent grid.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def normalisation(channels: int) -> nn.GroupNorm:
    """GroupNorm of 32 groups."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norm and SiLU before each, added to the input; 1x1 where the widths differ."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = normalisation(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = normalisation(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Attention of one head over all cells, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = normalisation(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)  # [B, 1, h * w, C]
        return x + self.proj_out(h[:, 0].transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """3x3 with stride 2, padded with zeros on the right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = AttentionBlock(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))  # type: ignore[no-any-return]


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where there is any.

    Args:
        in_channels, out_channels: widths before and after.
        blocks: number of residual blocks.
        attention: whether attention follows each.
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: int, attention: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.block = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(AttentionBlock(out_channels) for _ in range(blocks if attention else 0))

    def blocks(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        return x


class DownLevel(Level):
    """A level of the encoder; `downsample` halves the grid behind it."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, attention: bool, halve: bool) -> None:
        super().__init__(in_channels, out_channels, blocks, attention)
        if halve:
            self.downsample = Downsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class UpLevel(Level):
    """A level of the decoder; `upsample` doubles the grid behind it."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, attention: bool, double: bool) -> None:
        super().__init__(in_channels, out_channels, blocks, attention)
        if double:
            self.upsample = Upsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.upsample(x) if hasattr(self, "upsample") else x


class Analysis(nn.Module):
    """Pixels to latents: [B, in_channels, H, W] -> [B, out_channels, h, w].

    Args:
        in_channels: 3 for pixels.
        out_channels: z_channels.
        width: channels of the first convolution.
        multipliers: width of each level, in units of `width`; level 0 has the highest resolution.
        blocks: residual blocks per level.
        attention_levels: levels with attention.
        halvings: the first levels that halve the grid behind them; all but the last by default.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int,
        width: int = 128,
        multipliers: Sequence[int],
        blocks: int = 2,
        attention_levels: Collection[int] = (),
        halvings: int | None = None,
    ) -> None:
        super().__init__()
        halvings = len(multipliers) - 1 if halvings is None else halvings
        widths = [width * m for m in (1, *multipliers)]
        self.conv_in = nn.Conv2d(in_channels, width, 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(widths[i], widths[i + 1], blocks, i in attention_levels, i < halvings)
            for i in range(len(multipliers))
        )
        self.mid = Middle(widths[-1])
        self.norm_out = normalisation(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))  # type: ignore[no-any-return]


class Synthesis(nn.Module):
    """Latents to pixels: [B, in_channels, h, w] -> [B, out_channels, H, W].

    Args:
        in_channels: z_channels.
        out_channels: 3 for pixels.
        width, multipliers, attention_levels: as for `Analysis`, level 0 has the highest resolution and comes last.
        blocks: residual blocks per level, one more than in the analysis.
        doublings: the first levels to run, from the last down, that double the grid; all but level 0 by default.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int],
        blocks: int = 3,
        attention_levels: Collection[int] = (),
        doublings: int | None = None,
    ) -> None:
        super().__init__()
        levels = len(multipliers)
        doublings = levels - 1 if doublings is None else doublings
        widths = [width * m for m in multipliers]
        before = [*widths[1:], widths[-1]]
        self.conv_in = nn.Conv2d(in_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            UpLevel(before[i], widths[i], blocks, i in attention_levels, i >= levels - doublings) for i in range(levels)
        )
        self.norm_out = normalisation(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))  # type: ignore[no-any-return]


def levels_at(resolution: int, sides: Collection[int], levels: int) -> tuple[int, ...]:
    """Levels whose nominal side, `resolution` halved per level, is among `sides` (`attn_resolutions` of a config)."""
    return tuple(level for level in range(levels) if resolution >> level in sides)

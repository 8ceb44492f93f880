"""The video tokenizer, DV8x16x16 (arXiv:2501.03575, section 5), of which a codec for pictures uses one frame."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from obverse.interfaces import Condition, Encoder, Latents
from obverse_cosmos.causal import (
    CausalConv3d,
    Downsample,
    FrameNorm,
    ResidualBlock,
    Upsample,
    attention,
    factorised,
)
from obverse_cosmos.haar import log2, patch_video, unpatch_video


def halves(level: int, space: int, time: int) -> tuple[bool, bool]:
    """Whether the analysis halves space and time behind a level, of so many that do."""
    return level < space, level < time


def doubles(order: int, space: int, time: int) -> tuple[bool, bool]:
    """Whether the synthesis doubles space and time behind the level that runs as number `order` from 0.

    Time doubles one level later than it was halved, and space with it.
    """
    in_time = 0 < order <= time
    return in_time or (order < space and space > time), in_time


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.attn_1 = attention(channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))  # type: ignore[no-any-return]


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where there is any."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, attends: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.block = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(attention(out_channels) for _ in range(blocks if attends else 0))

    def blocks(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        return x


class DownLevel(Level):
    """A level of the analysis; `downsample` follows where it is said whether to halve space and time."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, attends: bool, halve: tuple[bool, bool] | None
    ) -> None:
        super().__init__(in_channels, out_channels, blocks, attends)
        if halve is not None:
            self.downsample = Downsample(out_channels, *halve)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class UpLevel(Level):
    """A level of the synthesis; `upsample` follows where it is said whether to double space and time."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, attends: bool, double: tuple[bool, bool] | None
    ) -> None:
        super().__init__(in_channels, out_channels, blocks, attends)
        if double is not None:
            self.upsample = Upsample(out_channels, *double)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.upsample(x) if hasattr(self, "upsample") else x


class VideoAnalysis(nn.Module):
    """[B, in_channels, T, H, W] -> [B, out_channels, t, h, w].

    Args:
        in_channels, out_channels: widths at the ends.
        widths: of the first convolution and of each level.
        blocks: residual blocks per level.
        attention_levels: levels with attention.
        space, time: number of levels that halve space and time behind them, the first ones; the last never does.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        blocks: int,
        attention_levels: Collection[int],
        space: int,
        time: int,
    ) -> None:
        super().__init__()
        self.conv_in = factorised(in_channels, widths[0])
        last = len(widths) - 2
        self.down = nn.ModuleList(
            DownLevel(a, b, blocks, i in attention_levels, halves(i, space, time) if i < last else None)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.mid = Middle(widths[-1])
        self.norm_out = FrameNorm(widths[-1])
        self.conv_out = factorised(widths[-1], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))  # type: ignore[no-any-return]


class VideoSynthesis(nn.Module):
    """[B, in_channels, t, h, w] -> [B, out_channels, T, H, W].

    Args:
        in_channels, out_channels: widths at the ends.
        widths: of each level, level 0 has the highest resolution and comes last.
        blocks: residual blocks per level.
        attention_levels: levels with attention.
        space, time: how often space and time double; level 0 never does.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        blocks: int,
        attention_levels: Collection[int],
        space: int,
        time: int,
    ) -> None:
        super().__init__()
        self.conv_in = factorised(in_channels, widths[-1])
        self.mid = Middle(widths[-1])
        last = len(widths) - 1
        before = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            UpLevel(a, b, blocks, i in attention_levels, doubles(last - i, space, time) if i else None)
            for i, (a, b) in enumerate(zip(before, widths, strict=True))
        )
        self.norm_out = FrameNorm(widths[0])
        self.conv_out = factorised(widths[0], out_channels)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))  # type: ignore[no-any-return]


class CosmosVideoAutoencoder(Encoder, nn.Module):
    """The causal autoencoder of videos; a picture is a video of one frame.

    It looks at the whole picture (norms and attention).

    Args:
        patch: side in pixels, and frames, of the wavelets' patches, a power of two.
        stride: pixels per token, a power of two.
        time_stride: frames per token, a power of two, at least `patch`.
        dim: channels of a token's latent.
        z_channels: channels between the networks and the projections.
        width: channels of the first convolution.
        multipliers: width of each level, in units of `width`.
        blocks: residual blocks per level of the analysis; the synthesis has one more.
        attention_levels: levels of the analysis with attention, 0 has the highest resolution.
        synthesis_attention_levels: those of the synthesis, where they differ.
    """

    def __init__(
        self,
        *,
        patch: int = 4,
        stride: int = 16,
        time_stride: int = 8,
        dim: int = 6,
        z_channels: int = 16,
        width: int = 128,
        multipliers: Sequence[int] = (2, 4, 4),
        blocks: int = 2,
        attention_levels: Collection[int] = (),
        synthesis_attention_levels: Collection[int] | None = None,
    ) -> None:
        super().__init__()
        space, time = log2(stride) - log2(patch), log2(time_stride) - log2(patch)
        if not (0 <= time <= space < len(multipliers) and time < len(multipliers) - 1):
            raise ValueError(
                f"{len(multipliers)} levels cannot go from patches of {patch} to strides of {stride} in space and "
                f"{time_stride} in time"
            )
        levels = attention_levels if synthesis_attention_levels is None else synthesis_attention_levels
        widths = [width * m for m in (1, *multipliers)]
        self.patch = patch
        self.stride = self.multiple = stride
        self.channels = {"tokens": dim}
        self.encoder = VideoAnalysis(
            in_channels=3 * patch**3,
            out_channels=z_channels,
            widths=widths,
            blocks=blocks,
            attention_levels=attention_levels,
            space=space,
            time=time,
        )
        self.decoder = VideoSynthesis(
            in_channels=z_channels,
            out_channels=3 * patch**3,
            widths=widths[1:],
            blocks=blocks + 1,
            attention_levels=levels,
            space=space,
            time=time,
        )
        self.quant_conv = CausalConv3d(z_channels, dim)
        self.post_quant_conv = CausalConv3d(dim, z_channels)

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        return {"tokens": self.analyse((images * 2 - 1)[:, :, None])[:, :, 0]}

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        return (self.synthesise(latents["tokens"][:, :, None])[:, :, 0] + 1) / 2

    def analyse(self, video: Tensor) -> Tensor:
        """[B, 3, T, H, W] in [-1, 1] -> [B, D, t, h, w], with T = 1 + (t - 1) * time_stride."""
        return self.quant_conv(self.encoder(patch_video(video, self.patch)))  # type: ignore[no-any-return]

    def synthesise(self, latents: Tensor) -> Tensor:
        """The way back, about [-1, 1]."""
        return unpatch_video(self.decoder(self.post_quant_conv(latents)), self.patch)

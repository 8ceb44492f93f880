"""Factorised layers over space and time that look at the frames before, never at later ones.

Names of parameters are those of the published weights.

Shape notation:
    B batch, C channels, T frames, H and W rows and columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class CausalConv3d(nn.Module):
    """A convolution that sees the first frame repeated before the start, and zeros around each frame.

    Args:
        in_channels, out_channels: widths.
        time: frames of the kernel.
        space: side of the kernel.
        time_stride, space_stride: strides.
        padding: zeros around each frame.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time: int = 1,
        space: int = 1,
        time_stride: int = 1,
        space_stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.before = time - time_stride
        kernel, stride = (time, space, space), (time_stride, space_stride, space_stride)
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, (0, padding, padding))

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            x = F.pad(x, (0, 0, 0, 0, self.before, 0), mode="replicate")
        return self.conv3d(x)  # type: ignore[no-any-return]


def spatial(in_channels: int, out_channels: int) -> CausalConv3d:
    """3x3 in each frame."""
    return CausalConv3d(in_channels, out_channels, space=3, padding=1)


def temporal(in_channels: int, out_channels: int) -> CausalConv3d:
    """Three frames of each pixel."""
    return CausalConv3d(in_channels, out_channels, time=3)


def factorised(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 in each frame, then three frames of each pixel."""
    return nn.Sequential(spatial(in_channels, out_channels), temporal(out_channels, out_channels))


class FrameNorm(nn.Module):
    """GroupNorm of one group, of each frame alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.norm(rearrange(x, "b c t h w -> (b t) c h w"))
        return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two factorised convolutions with norm and SiLU before each, added to the input; 1x1x1 where the widths differ."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(in_channels)
        self.conv1 = factorised(in_channels, out_channels)
        self.norm2 = FrameNorm(out_channels)
        self.conv2 = factorised(out_channels, out_channels)
        if in_channels != out_channels:
            self.nin_shortcut = CausalConv3d(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Attention of one head, added to the input.

    Args:
        channels: C.
        time: attend from each pixel to the same one of earlier frames; else to all pixels of its frame.
    """

    def __init__(self, channels: int, *, time: bool) -> None:
        super().__init__()
        self.time = time
        self.norm = FrameNorm(channels)
        self.q = CausalConv3d(channels, channels)
        self.k = CausalConv3d(channels, channels)
        self.v = CausalConv3d(channels, channels)
        self.proj_out = CausalConv3d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, frames, height, _ = x.shape
        h = self.norm(x)
        q, k, v = (part(h) for part in (self.q, self.k, self.v))
        if self.time:
            q, k, v = (rearrange(part, "b c t h w -> (b h w) 1 t c") for part in (q, k, v))
            h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = rearrange(h, "(b h w) 1 t c -> b c t h w", b=batch, h=height)
        else:
            q, k, v = (rearrange(part, "b c t h w -> (b t) 1 (h w) c") for part in (q, k, v))
            h = F.scaled_dot_product_attention(q, k, v)
            h = rearrange(h, "(b t) 1 (h w) c -> b c t h w", t=frames, h=height)
        return x + self.proj_out(h)  # type: ignore[no-any-return]


def attention(channels: int) -> nn.Sequential:
    """Over the pixels of each frame, then over the frames of each pixel."""
    return nn.Sequential(AttentionBlock(channels, time=False), AttentionBlock(channels, time=True))


class Downsample(nn.Module):
    """Halves space, time or both, each by a convolution plus a mean of pairs.

    Args:
        channels: C.
        space: halve rows and columns, padded with zeros on the right and below.
        time: halve frames: T = 1 + 2n becomes 1 + n.
    """

    def __init__(self, channels: int, space: bool, time: bool) -> None:
        super().__init__()
        if space:
            self.conv1 = CausalConv3d(channels, channels, space=3, space_stride=2)
        if time:
            self.conv2 = CausalConv3d(channels, channels, time=3, time_stride=2)
        if space or time:
            self.conv3 = CausalConv3d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "conv1"):
            x = self.conv1(F.pad(x, (0, 1, 0, 1))) + F.avg_pool3d(x, (1, 2, 2))
        if hasattr(self, "conv2"):
            x = torch.cat([x[:, :, :1], x], dim=2)
            x = self.conv2(x) + F.avg_pool3d(x, (2, 1, 1))
        return self.conv3(x) if hasattr(self, "conv3") else x


class Upsample(nn.Module):
    """Doubles space, time or both, each by repetition with a residual convolution.

    Args:
        channels: C.
        space: double rows and columns.
        time: double frames: T = 1 + n becomes 1 + 2n.
    """

    def __init__(self, channels: int, space: bool, time: bool) -> None:
        super().__init__()
        if time:
            self.conv1 = temporal(channels, channels)
        if space:
            self.conv2 = spatial(channels, channels)
        if space or time:
            self.conv3 = CausalConv3d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "conv1"):
            x = torch.cat([x[:, :, :1], x[:, :, 1:].repeat_interleave(2, dim=2)], dim=2)
            x = self.conv1(x) + x
        if hasattr(self, "conv2"):
            x = x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
            x = self.conv2(x) + x
        return self.conv3(x) if hasattr(self, "conv3") else x

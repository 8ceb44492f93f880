"""Haar wavelets that exchange resolution for channels (arXiv:2501.03575, section 5).

Every step halves some axes: pairs of neighbours become half their sum (low) and half their difference (high).

Shape notation:
    B batch, C channels, T frames, H and W pixels, p patch, a power of two.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PLANE = (3, 2)
"""Axes of [B, C, H, W]: bands are named by width, then height."""

VOLUME = (2, 3, 4)
"""Axes of [B, C, T, H, W]: bands are named by time, then height, then width."""


def bands(x: Tensor, axes: Sequence[int]) -> Tensor:
    """One step: C channels to 2**len(axes) * C, from the low band of all axes to the high one of all."""
    parts = [x]
    for axis in axes:
        pairs = [_pairs(part, axis) for part in parts]
        parts = [half for first, second in pairs for half in ((first + second) / 2, (first - second) / 2)]
    return torch.cat(parts, dim=1)


def _pairs(x: Tensor, axis: int) -> tuple[Tensor, ...]:
    """The first and the second of each pair of neighbours along an axis."""
    return x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :]).unbind(axis + 1)


def unbands(x: Tensor, axes: Sequence[int]) -> Tensor:
    """The inverse of `bands`."""
    parts = list(x.chunk(2 ** len(axes), dim=1))
    for axis in reversed(axes):
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [torch.stack([low + high, low - high], axis + 1).flatten(axis, axis + 1) for low, high in pairs]
    return parts[0]


def patch_image(x: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, C * p**2, H / p, W / p]; each step takes the bands of the one before as channels."""
    for _ in range(log2(patch)):
        x = bands(x, PLANE)
    return x


def unpatch_image(x: Tensor, patch: int) -> Tensor:
    """The inverse of `patch_image`."""
    for _ in range(log2(patch)):
        x = unbands(x, PLANE)
    return x


def patch_video(x: Tensor, patch: int) -> Tensor:
    """[B, C, 1 + p * n, H, W] -> [B, C * p**3, 1 + n, H / p, W / p]; the first frame counts p times."""
    x = torch.cat([x[:, :, :1].expand(-1, -1, patch, -1, -1), x[:, :, 1:]], dim=2)
    for _ in range(log2(patch)):
        x = bands(x, VOLUME)
    return x


def unpatch_video(x: Tensor, patch: int) -> Tensor:
    """The inverse of `patch_video`."""
    for _ in range(log2(patch)):
        x = unbands(x, VOLUME)
    return x[:, :, patch - 1 :]


def log2(value: int) -> int:
    """Exponent of a power of two.

    Raises:
        ValueError: it is none.
    """
    if value < 1 or value & (value - 1):
        raise ValueError(f"{value} is not a power of two")
    return value.bit_length() - 1

"""Positions of tokens in a video: rotary angles and sines of time, row and column.

Shape notation:
    L tokens, D model width, d head width. Places are [L, 3] int64: frame, row and column, each from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext

import torch
from torch import Tensor

from obverse.nn.rotary import angle_table, rotary_frequencies, rotary_table

_ONE = 1 << 112  # frequencies are whole numbers in this unit
with localcontext(Context(prec=60)):
    _TURN = int(Decimal("6.28318530717958647692528676655900576839433879875021") * _ONE)


def places(frames: int, height: int, width: int) -> Tensor:
    """Every cell in raster order, [frames * height * width, 3]."""
    return torch.cartesian_prod(torch.arange(frames), torch.arange(height), torch.arange(width))


def rotary_3d(cells: Tensor, head_dim: int, base: float, stretch: Stretch | None = None) -> Tensor:
    """Rotary angles of places: the pairs of a head are shared out to time, rows and columns.

    Args:
        cells: places.
        head_dim: d.
        base: ratio of the highest to the lowest frequency of an axis, nearly.
        stretch: change of the frequencies.

    Returns:
        [L, d/2, 2] cosines and sines, float64.
    """
    parts = []
    for axis, size in enumerate(_shares(head_dim)):
        frequencies = rotary_frequencies(size // 2, base)
        if stretch is not None:
            frequencies = stretch(frequencies, axis)
        column = cells[:, axis]
        parts.append(angle_table(int(column.max()) + 1, frequencies)[column])
    return torch.cat(parts, dim=1)


class Stretch:
    """Lower frequencies for grids larger than those of the first training (YaRN, arXiv:2309.00071, section 3.2).

    Frequencies with at most `slow` turns over the original length are divided by `scale`, those with at least `fast`
    are kept, with a linear ramp between.

    Args:
        grid: original frames, rows and columns; as in the published models the rows count for the columns too.
        scale, fast, slow: as above.
    """

    def __init__(self, *, grid: Sequence[int], scale: int, fast: int, slow: int) -> None:
        frames, height, _ = grid
        self.lengths = (frames, height, height)
        self.scale, self.fast, self.slow = scale, fast, slow

    def __call__(self, frequencies: Sequence[int], axis: int) -> tuple[int, ...]:
        """Frequencies of an axis, times 2**112 before and after."""
        low, high = (_TURN * turns // self.lengths[axis] for turns in (self.slow, self.fast))
        kept = [min(max((f - low) * _ONE // (high - low), 0), _ONE) for f in frequencies]
        return tuple(f * ((_ONE - k) // self.scale + k) // _ONE for f, k in zip(frequencies, kept, strict=True))


def sines_3d(cells: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of each of the three axes, [L, D] float64 (arXiv:1706.03762, section 3.5)."""
    parts = []
    for axis, size in enumerate(_shares(dim)):
        column = cells[:, axis]
        table = rotary_table(int(column.max()) + 1, size // 2)[column]  # [L, size / 2, 2]
        parts += [table[..., 1], table[..., 0]]
    return torch.cat(parts, dim=1)


def _shares(size: int) -> tuple[int, int, int]:
    """Values of time, row and column out of `size`; time has what two even thirds leave."""
    third = size // 6 * 2
    return size - 2 * third, third, third


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn pairs of x [B, H, L, d], a value of the first half with one of the second, by `table` [L, d/2, 2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = table.unbind(-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

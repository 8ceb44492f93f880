"""Windows: a prior with a small native grid, slid over a larger one."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from obverse.errors import ConfigError
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior


@dataclass(frozen=True)
class Group:
    """Windows of one shape that do not depend on each other.

    Attributes:
        rows, columns: cells of each window.
        positions: [n, rows * columns] int64, cell numbers of the whole grid in raster order of each window.
        known: [rows * columns] bool, cells that earlier groups have coded, the same in every window.
    """

    rows: int
    columns: int
    positions: Tensor
    known: Tensor


def groups(height: int, width: int, window: int, group: int = Prior.group) -> Iterator[Group]:
    """Cover a grid with windows.

    Windows lie edge to edge; one that would hang over the edge is shifted inside, and the cells it shares with the
    windows before are known. So there are up to four kinds of windows, coded in this order: inside, shifted left,
    shifted up, shifted both ways; each kind in raster order, at most `group` at a time.

    Args:
        height, width: size of the grid in cells.
        window: side of a window; on a grid that is smaller it shrinks to the grid.
    """
    rows, columns = min(window, height), min(window, width)
    tops, last_top = list(range(0, height - rows + 1, rows)), height - rows
    lefts, last_left = list(range(0, width - columns + 1, columns)), width - columns
    shifted_tops = [last_top] if height % rows else []
    shifted_lefts = [last_left] if width % columns else []
    cell = torch.arange(rows)[:, None] * width + torch.arange(columns)  # [rows, columns]
    for kind_tops, kind_lefts in (
        (tops, lefts), (tops, shifted_lefts), (shifted_tops, lefts), (shifted_tops, shifted_lefts)
    ):  # fmt: skip
        corners = [top * width + left for top in kind_tops for left in kind_lefts]
        known = torch.zeros(rows, columns, dtype=torch.bool)
        if kind_lefts is shifted_lefts:
            known[:, : columns - width % columns] = True
        if kind_tops is shifted_tops:
            known[: rows - height % rows] = True
        for start in range(0, len(corners), group):
            chosen = torch.tensor(corners[start : start + group])
            yield Group(rows, columns, chosen[:, None] + cell.flatten(), known.flatten())


class Windowed(Prior):
    """A prior over grids of any size, made of one that models at most `prior.window` cells a side.

    The inner prior must yield blocks with positions and without context, which could not be told apart by window. Cells
    of a window that are already coded are fed to it, and not coded again.

    Up to `prior.group` windows of a picture run as one batch, 64 by default. Memory grows with it, and it decides the
    order of the symbols; so a prior takes it from its configuration, whose fingerprint is in every stream.
    """

    def __init__(self, prior: Prior) -> None:
        if prior.window is None:
            raise ValueError("only a prior with a window can be slid over a grid")
        self.prior = prior
        self.side = prior.window
        self.group: int = prior.group
        if self.group < 1:
            raise ConfigError(
                f"prior {type(prior).__name__} has group={self.group}; windows run at least one at a time"
            )
        self.exact, self.numerics = prior.exact, prior.numerics  # type: ignore[misc]
        self.alphabets, self.stride, self.qualities = prior.alphabets, prior.stride, prior.qualities

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        yield from self._cover(layout, condition, None)

    def teacher_forced(self, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
        yield from self._cover(layout, condition, symbols)

    def _cover(self, layout: Layout, condition: Condition, symbols: Mapping[str, Tensor] | None) -> Blocks:
        grid: dict[str, Tensor] = {}
        for group in groups(layout.height, layout.width, self.side, self.group):
            count = len(group.positions)
            inner_layout = Layout(layout.batch * count, group.rows, group.columns)
            if symbols is None:
                inner = self.prior.blocks(inner_layout, condition)
            else:
                flat = {k: v[:, group.positions].flatten(0, 1) for k, v in symbols.items()}
                inner = self.prior.teacher_forced(flat, inner_layout, condition)
            try:
                block = next(inner)
                while True:
                    block = inner.send((yield from self._one(block, group, layout, grid)))
            except StopIteration:
                pass

    def _one(
        self, block: Block, group: Group, layout: Layout, grid: dict[str, Tensor]
    ) -> Generator[Block, Tensor, Tensor]:
        """Yield the unknown part of an inner block; return all of its symbols, [B * n, k]."""
        if block.positions is None or block.context:
            raise TypeError(
                f"{type(self.prior).__name__} has a window: its blocks need positions and can have no context, "
                f"block {block.name!r} has {'context' if block.context else 'no positions'}"
            )
        inside = block.positions.to(group.positions.device)
        places = group.positions[:, inside]  # [n, k]
        if block.name not in grid:
            grid[block.name] = torch.zeros(layout.batch, layout.height * layout.width, dtype=torch.int64)
        array = grid[block.name]
        missing = (~group.known[inside]).nonzero()[:, 0]
        if len(missing):
            columns = (torch.arange(len(places))[:, None] * len(inside) + missing).flatten()
            distribution = block.distribution.regroup(layout.batch)
            if len(missing) < len(inside):
                distribution = distribution.select(columns)
            wanted = places.flatten()[columns]
            received = yield Block(block.name, distribution, wanted, block.context)
            array[:, wanted] = received.to(array.device)
        device = block.positions.device
        return array[:, places].flatten(0, 1).to(device)

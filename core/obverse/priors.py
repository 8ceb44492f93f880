"""Priors without parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from obverse.distributions import Categorical
from obverse.errors import ConfigError
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior


class UniformPrior(Prior):
    """Every token equally probable, for any quantizer with a finite alphabet.

    Args:
        alphabets: number of symbols by array name; taken from the quantizer when composed by name.
        count: tokens of each array; by default one per grid cell.
    """

    exact: ClassVar[bool] = True

    def __init__(self, *, alphabets: Mapping[str, int | None], count: int | None = None) -> None:
        unbounded = [name for name, size in alphabets.items() if size is None]
        if unbounded:
            raise ConfigError(f"prior 'uniform' needs a finite alphabet, {unbounded} are unbounded integers")
        self.alphabets, self.count = dict(alphabets), count

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        for name, size in self.alphabets.items():
            assert size is not None
            step = max(1, 2**22 // size)  # bounds the memory of a block's weights
            count = self.count or layout.height * layout.width
            for start in range(0, count, step):
                positions = torch.arange(start, min(start + step, count))
                logits = torch.zeros(1, 1, size, dtype=torch.int32).expand(layout.batch, len(positions), size)
                yield Block(name, Categorical(logits), positions)

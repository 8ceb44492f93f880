"""Priors without parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch

from obverse.distributions import Categorical
from obverse.errors import ConfigError
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior, coded_stages


class UniformPrior(Prior):
    """Every token equally probable, for any quantizer with a finite alphabet.

    What it is not given is taken from the quantizer when composed by name.

    Args:
        alphabets: number of symbols by array name.
        count: tokens of each array; by default one per grid cell.
        stages: ends of the parts of the array that are blocks of their own; by default there are none.
        qualities: operating points, which code fewer stages, as the quantizer's.
    """

    exact: ClassVar[bool] = True

    def __init__(
        self,
        *,
        alphabets: Mapping[str, int | None],
        count: int | None = None,
        stages: Sequence[int] = (),
        qualities: int | None = None,
    ) -> None:
        unbounded = [name for name, size in alphabets.items() if size is None]
        if unbounded:
            raise ConfigError(f"prior 'uniform' needs a finite alphabet, {unbounded} are unbounded integers")
        self.alphabets, self.count, self.stages, self.qualities = dict(alphabets), count, tuple(stages), qualities
        if stages:
            coded_stages(stages, qualities or 1, 0)

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        for name, size in self.alphabets.items():
            assert size is not None
            step = max(1, 2**22 // size)  # bounds the memory of a block's weights
            for start, stop in pairwise([0, *self._ends(layout, condition, step)]):
                logits = torch.zeros(1, 1, size, dtype=torch.int32).expand(layout.batch, stop - start, size)
                yield Block(name, Categorical(logits), torch.arange(start, stop))

    def _ends(self, layout: Layout, condition: Condition, step: int) -> Sequence[int]:
        if self.stages:
            return coded_stages(self.stages, self.qualities or 1, condition.quality)
        count = self.count or layout.height * layout.width
        return [*range(step, count, step), count]

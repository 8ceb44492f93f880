"""Cases of priors: what coder and quantizer see, block by block, however the prior is run."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from obverse.distributions import Categorical, Distribution, FactorizedTable, TableDistribution
from obverse.guarded import Guarded
from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.loop import run
from obverse.numerics import EXACT, GUARDED64, prepare
from obverse.selftest import priors
from obverse.selftest.cases import Case, Results
from obverse.selftest.seeded import integers

TOKENS_SIDE, LATENTS_SIDE = 4, 8
"""Cells of the grids of priors over tokens, and over unbounded integers."""

_ITEMS = 2  # of the batch, are recorded
_BATCH = 7
_REACH = 4  # unbounded integers are -4 to 4


def toys() -> dict[str, Prior]:
    """Float priors with seeded weights, from `toys` of every module in `obverse.selftest.priors`."""
    found: dict[str, Prior] = {}
    for module in sorted(pkgutil.iter_modules(priors.__path__), key=lambda module: module.name):
        found |= importlib.import_module(f"{priors.__name__}.{module.name}").toys()
    return found


def prior_cases() -> dict[str, Case]:
    """A case for every toy."""
    return {name: _case(name, prior) for name, prior in toys().items()}


def _case(name: str, prior: Prior) -> Case:
    exact = prepare(prior, EXACT)
    exact.numerics = GUARDED64  # hands out the floating-point numbers, of which mode exact shows the roundings alone
    side = LATENTS_SIDE if None in prior.alphabets.values() else TOKENS_SIDE

    def compute(device: torch.device) -> Results:
        if isinstance(exact, nn.Module):
            exact.to(device)
        script, condition = Script(name, exact, device), Condition()

        def stepwise(items: slice) -> list[Block]:
            layout = Layout(items.stop - items.start, side, side)
            return script.play(exact.blocks(layout, condition), items)

        pair, everything = stepwise(slice(0, _ITEMS)), slice(0, _BATCH)
        arrays = script.arrays(pair, everything)
        forced = script.play(exact.teacher_forced(arrays, Layout(_BATCH, side, side), condition), everything)
        alone = [stepwise(slice(i, i + 1)) for i in range(_ITEMS)]
        return {
            "step by step": _seen(pair),
            f"in one pass, batch of {_BATCH}": [tensor[:_ITEMS] for tensor in _seen(forced)],
            "step by step, one by one": [torch.cat(parts) for parts in zip(*map(_seen, alone), strict=True)],
        }

    return Case(compute, model=True)


class Script:
    """Symbols that are the same on every machine.

    Args:
        seed: where they come from.
        prior: whose alphabets they are from.
        device: where they are needed.
    """

    def __init__(self, seed: str, prior: Prior, device: torch.device) -> None:
        self.seed, self.prior, self.device = seed, prior, device

    def symbols(self, block: Block, index: int, items: slice) -> Tensor:
        """Of some items of a batch, for a block that comes at `index`."""
        shape, seed = (_BATCH, *block.distribution.shape[1:]), f"{self.seed}/{index}"
        size = self.prior.alphabets[block.name]
        drawn = integers(shape, 2 * _REACH + 1, seed) - _REACH if size is None else integers(shape, size, seed)
        return drawn[items].to(self.device)

    def play(self, blocks: Blocks, items: slice) -> list[Block]:
        """Run a prior with these symbols; its blocks."""
        seen: list[Block] = []

        def source(block: Block) -> Tensor:
            seen.append(block)
            return self.symbols(block, len(seen) - 1, items)

        run(blocks, source)
        return seen

    def arrays(self, blocks: Sequence[Block], items: slice) -> dict[str, Tensor]:
        """The symbols of all blocks by array name, [B, N]."""
        found: dict[str, Tensor] = {}
        for name in {block.name for block in blocks}:
            parts = [(i, block) for i, block in enumerate(blocks) if block.name == name]
            flat = torch.cat([self.symbols(block, i, items).flatten(1) for i, block in parts], dim=1)
            places = [block.positions for _, block in parts if block.positions is not None]
            found[name] = flat[:, torch.cat(places).argsort()] if places else flat
        return found


def _seen(blocks: Sequence[Block]) -> list[Tensor]:
    """What the other parts of a codec see of blocks, as tensors with the batch first."""
    tensors = []
    for block in blocks:
        if block.positions is not None:
            tensors.append(block.positions.expand(block.distribution.shape[0], -1))
        tensors += _numbers(block.distribution)
        tensors += [block.context[name].double() for name in sorted(block.context)]
    return tensors


def _numbers(distribution: Distribution) -> list[Tensor]:
    """Of which frequencies are made."""
    if isinstance(distribution, Guarded):
        return [distribution.values, distribution.rounded(distribution.values, 0)]
    if isinstance(distribution, FactorizedTable):
        tables = [torch.from_numpy(np.append(row, first)) for first, row in distribution.tables]
        return [distribution.indices, *(table.expand(len(distribution.indices), -1) for table in tables)]
    if isinstance(distribution, TableDistribution):
        return [distribution.indices]
    assert isinstance(distribution, Categorical)
    return [distribution.logits]

"""Windows over grids of any size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import CODES, NextTokenPrior, table

from obverse.coders.range import RangeDecoder, RangeEncoder
from obverse.distributions import Categorical
from obverse.errors import ConfigError
from obverse.interfaces import Block, Blocks, Condition, Layout
from obverse.loop import Decoding, Encoding, Known, Sampling, run
from obverse.priors import UniformPrior
from obverse.testing import PriorContract, Replay
from obverse.windows import Windowed, groups

sides = st.integers(1, 40)


class TestWindowed(PriorContract):
    def make(self) -> Windowed:
        return Windowed(NextTokenPrior(window=3))

    def layouts(self) -> list[Layout]:
        return [Layout(1, 1, 1), Layout(2, 3, 3), Layout(3, 4, 7), Layout(1, 8, 2)]


@given(sides, sides, st.integers(1, 20), st.integers(1, 64))
@settings(max_examples=150)
def test_every_cell_is_coded_exactly_once(height: int, width: int, window: int, limit: int) -> None:
    coded = torch.zeros(height * width, dtype=torch.int64)
    for group in groups(height, width, window, limit):
        assert len(group.positions) <= limit
        assert group.rows <= window
        assert group.columns <= window
        assert group.positions.shape[1] == group.rows * group.columns
        known = coded[group.positions] > 0
        assert (known == group.known).all(), "known is what earlier groups have coded"
        coded[group.positions[:, ~group.known]] += 1
        inside = group.positions.view(-1, group.rows, group.columns)
        assert (inside.diff(dim=2) == 1).all()
        assert (inside.diff(dim=1) == width).all()
        assert (inside[:, 0, 0] % width + group.columns <= width).all(), "no window wraps around"
    assert (coded == 1).all()


@given(sides, sides, st.integers(1, 20))
@settings(max_examples=50)
def test_windows_of_a_group_share_no_new_cells(height: int, width: int, window: int) -> None:
    for group in groups(height, width, window):
        fresh = group.positions[:, ~group.known].flatten()
        assert len(fresh.unique()) == len(fresh)


def test_golden_order() -> None:
    """The order is part of the format: a 3x5 grid under windows of 2x2."""
    found = [(g.rows, g.columns, g.positions.tolist(), g.known.tolist()) for g in groups(3, 5, 2)]
    assert found == [
        (2, 2, [[0, 1, 5, 6], [2, 3, 7, 8]], [False] * 4),
        (2, 2, [[3, 4, 8, 9]], [True, False, True, False]),
        (2, 2, [[5, 6, 10, 11], [7, 8, 12, 13]], [True, True, False, False]),
        (2, 2, [[8, 9, 13, 14]], [True, True, True, False]),
    ]


def test_grid_smaller_than_the_window() -> None:
    (group,) = groups(2, 3, 16)
    assert (group.rows, group.columns) == (2, 3)
    assert group.positions.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert not group.known.any()


def test_groups_are_limited() -> None:
    assert [len(group.positions) for group in groups(10, 10, 1, 64)] == [64, 36]
    assert [len(group.positions) for group in groups(160, 144, 16)] == [64, 26]


class Counting(NextTokenPrior):
    """Keeps the batches that it was asked for."""

    def __init__(self, window: int) -> None:
        super().__init__(window)
        self.batches: list[int] = []

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        self.batches.append(layout.batch)
        return super().blocks(layout, condition)


@pytest.mark.parametrize(
    ("group", "batches", "order"), [(None, [10], [[0, 1, 2, 3, 4]]), (2, [4, 4, 2], [[0, 1], [2, 3], [4]])]
)
def test_a_prior_bounds_how_many_run_at_once(group: int | None, batches: list[int], order: list[list[int]]) -> None:
    """Other groups are another order of the symbols, so a prior has its own from its configuration."""
    prior = Counting(window=1)
    if group is not None:
        prior.group = group  # type: ignore[attr-defined]
    sampled = run(Windowed(prior).blocks(Layout(2, 1, 5), Condition()), Sampling(torch.Generator().manual_seed(0)))
    assert prior.batches == batches
    assert [part.positions.tolist() for part in sampled if part.positions is not None] == order


def test_no_window_at_a_time_is_refused() -> None:
    prior = NextTokenPrior(window=1)
    prior.group = 0  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="NextTokenPrior has group=0; windows run at least one at a time"):
        Windowed(prior)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 2))
@settings(max_examples=40)
def test_teacher_forced_equals_step_by_step(height: int, width: int, window: int, batch: int) -> None:
    prior, layout = Windowed(NextTokenPrior(window)), Layout(batch, height, width)
    generator = torch.Generator().manual_seed(height * 100 + width)
    symbols = {"tokens": torch.randint(CODES, (batch, height * width), generator=generator)}
    streams = []
    for blocks in (prior.blocks(layout, Condition()), prior.teacher_forced(symbols, layout, Condition())):
        encoders = [RangeEncoder() for _ in range(batch)]
        run(blocks, Encoding(Known(symbols), encoders))
        streams.append([encoder.finish() for encoder in encoders])
    assert streams[0] == streams[1]
    decoding = Decoding([RangeDecoder(data) for data in streams[0]])
    grid = torch.full_like(symbols["tokens"], -1)
    for part in run(prior.blocks(layout, Condition()), decoding):
        grid[:, part.positions] = part.symbols
    assert torch.equal(grid, symbols["tokens"])


def test_known_cells_are_fed_to_the_prior() -> None:
    """In a window that is shifted inside, the token before an unknown one may be a known one."""
    prior, layout = Windowed(NextTokenPrior(2)), Layout(1, 1, 3)
    sampled = run(prior.blocks(layout, Condition()), Sampling(torch.Generator().manual_seed(0)))
    assert [part.positions.tolist() for part in sampled if part.positions is not None] == [[0], [1], [2]]
    table = prior.prior.table  # type: ignore[attr-defined]
    last: list[torch.Tensor] = []
    replay = Replay([part.symbols for part in sampled])
    run(prior.blocks(layout, Condition()), lambda block: (last.append(block.distribution.logits), replay(block))[1])  # type: ignore[attr-defined, func-returns-value]
    assert torch.equal(last[-1][0, 0], table[sampled[1].symbols[0, 0]])


@pytest.mark.parametrize(
    ("block", "has"),
    [
        (Block("y", Categorical(table(1)[None]), torch.tensor([0]), {"mean": torch.zeros(1)}), "context"),
        (Block("y", Categorical(table(1)[None])), "no positions"),
    ],
)
def test_blocks_that_windows_cannot_hold_are_refused(block: Block, has: str) -> None:
    prior = NextTokenPrior(window=1)
    prior.blocks = lambda layout, condition: (found for found in [block])  # type: ignore[method-assign]
    message = f"NextTokenPrior has a window: its blocks need positions and can have no context, block 'y' has {has}"
    with pytest.raises(TypeError, match=message):
        next(Windowed(prior).blocks(Layout(1, 1, 1), Condition()))


def test_the_numerics_mode_is_that_of_the_prior() -> None:
    prior = NextTokenPrior(window=1)
    for mode in ("native", "exact"):
        prior.numerics = mode
        assert Windowed(prior).numerics == mode


def test_only_windows_can_be_slid() -> None:
    with pytest.raises(ValueError, match="only a prior with a window"):
        Windowed(UniformPrior(alphabets={"tokens": 4}))

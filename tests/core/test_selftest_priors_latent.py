"""Small priors over scales and latents: their exact form, and the wiring that the float form is written in."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from obverse.channel_groups import ChannelGroup, ChannelGroupPrior
from obverse.channel_groups import checkerboard as colours
from obverse.context import ContextPrior
from obverse.errors import ConfigError
from obverse.exact import BACKENDS, audit, convert, use_backend
from obverse.hyperprior import SMALLEST_SCALE, Hyperprior
from obverse.interfaces import Blocks, Condition, Layout, Prior
from obverse.loop import Sampling, Source, run
from obverse.next_scale import NextScalePrior
from obverse.nn.next_scale import HeadScale
from obverse.numerics import EXACT, GUARDED64, NATIVE, prepare
from obverse.selftest.priors import checkerboard, context, next_scale, top_down
from obverse.testing import PriorContract, Replay
from obverse.threads import threads

MODULES = (next_scale, context, checkerboard, top_down)
NAMES = [name for module in MODULES for name in module.toys()]
SCALES = list(next_scale.toys())


def make(name: str) -> Prior:
    toys: dict[str, Prior] = {}
    for module in MODULES:
        toys |= module.toys()
    return toys[name]


def ready(name: str, mode: str = EXACT) -> Prior:
    prior = prepare(make(name), mode)
    assert isinstance(prior, nn.Module)
    prior.requires_grad_(False)
    return prior


def size(name: str, batch: int) -> Layout:
    return Layout(batch, 4, 4 if name in SCALES else 8)


@dataclass
class Trace:
    """One run: the symbols of its blocks, and all numbers behind them, logits or scales and then means."""

    symbols: list[Tensor]
    positions: list[Tensor | None]
    numbers: list[Tensor]
    means: list[Tensor]

    def y(self) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols, scales and means of y as pictures [B, M, 4, 8]; the first block is z."""
        order = torch.cat([places for places in self.positions if places is not None]).argsort()
        parts = (self.symbols[1:], self.numbers, self.means)
        symbols, scales, means = (rearrange(torch.cat(p, 1)[:, order], "b (m h w) -> b m h w", h=4, w=8) for p in parts)
        return symbols, scales, means


def trace(prior: Prior, blocks: Blocks, source: Source | None = None) -> Trace:
    with (
        patch.object(prior, "categorical", side_effect=prior.categorical) as logits,
        patch.object(prior, "gaussian", side_effect=prior.gaussian) as scales,
    ):
        coded = run(blocks, source or Sampling(torch.Generator().manual_seed(0)))
    numbers = [call.args[0] for call in (*logits.call_args_list, *scales.call_args_list)]
    return Trace(
        [part.symbols for part in coded],
        [part.positions for part in coded],
        numbers,
        [part.context["mean"] for part in coded if "mean" in part.context and part.name != "z"],
    )


def stepwise(name: str, prior: Prior, batch: int = 2, like: Trace | None = None) -> Trace:
    blocks = prior.blocks(size(name, batch), Condition())
    return trace(prior, blocks, Replay(like.symbols) if like else None)


def forced(prior: Prior, tokens: Tensor) -> Trace:
    """A teacher-forced run of a next-scale prior over tokens [B, 30]."""
    blocks = prior.teacher_forced({"tokens": tokens}, Layout(len(tokens), 4, 4), Condition())
    return trace(prior, blocks, Replay(torch.split(tokens, [1, 4, 9, 16], 1)))


def assert_same(one: Trace, other: Trace) -> None:
    assert len(one.numbers) == len(other.numbers)
    assert len(one.means) == len(other.means)
    for ours, theirs in zip(one.numbers + one.means, other.numbers + other.means, strict=True):
        assert ours.dtype == torch.float64
        assert torch.equal(ours, theirs)


def row_of(whole: Trace, row: int) -> Trace:
    symbols, numbers, means = (
        [tensor[row : row + 1] for tensor in some] for some in (whole.symbols, whole.numbers, whole.means)
    )
    return Trace(symbols, whole.positions, numbers, means)


class ToyContract(PriorContract):
    name: str

    def make(self) -> Prior:
        return make(self.name)


class SquareContract(ToyContract):
    def layouts(self) -> list[Layout]:
        return [Layout(1, 4, 4), Layout(3, 4, 4)]


class TestNextScale(SquareContract):
    name = "next-scale"


class TestNextScaleShared(SquareContract):
    name = "next-scale-shared-adaln"


class TestContextMbt2018(ToyContract):
    name = "context-mbt2018"


class TestContextCheng2020(ToyContract):
    name = "context-cheng2020"


class TestCheckerboard(ToyContract):
    name = "checkerboard"


class TestCheckerboardOdd(ToyContract):
    name = "checkerboard-odd"


class TestTopDown(ToyContract):
    name = "top-down"

    def layouts(self) -> list[Layout]:
        return [Layout(1, 4, 4), Layout(3, 4, 8)]


def test_every_toy_has_a_contract() -> None:
    kinds = [*ToyContract.__subclasses__(), *SquareContract.__subclasses__()]
    contracts = {kind.name for kind in kinds if kind is not SquareContract}
    assert contracts == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_wiring_is_exact(name: str) -> None:
    prior = ready(name)
    seen = stepwise(name, prior)
    with audit():
        stepwise(name, prior, like=seen)


@pytest.mark.parametrize("name", NAMES)
def test_backends_agree(name: str) -> None:
    prior = ready(name)
    traces: list[Trace] = []
    for backend in BACKENDS:
        with use_backend(backend):
            traces.append(stepwise(name, prior, like=traces[0] if traces else None))
    assert_same(traces[0], traces[1])
    assert_same(traces[0], traces[2])


@pytest.mark.parametrize("name", NAMES)
def test_batch_does_not_matter(name: str) -> None:
    prior = ready(name)
    together = stepwise(name, prior, 7)
    for row in range(7):
        one = row_of(together, row)
        assert_same(one, stepwise(name, prior, 1, like=one))


@pytest.mark.parametrize("name", NAMES)
def test_threads_do_not_matter(name: str) -> None:
    prior = ready(name)
    with threads(1):
        one = stepwise(name, prior)
    with threads(2):
        assert_same(one, stepwise(name, prior, like=one))


@pytest.mark.parametrize("name", NAMES)
def test_exact_is_close_to_float64(name: str) -> None:
    """To 3 % of 1 + the value's magnitude; rounding the weights to 14 bits alone moves the values about as far."""
    ours = stepwise(name, ready(name))
    theirs = stepwise(name, ready(name, GUARDED64), like=ours)
    for a, b in zip(ours.numbers + ours.means, theirs.numbers + theirs.means, strict=True):
        assert ((a - b).abs() <= 0.03 * (b.abs() + 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_native_form_stays_in_float32(name: str) -> None:
    found = stepwise(name, ready(name, NATIVE))
    assert {tensor.dtype for tensor in found.numbers + found.means} == {torch.float32}


@pytest.mark.parametrize("name", NAMES)
def test_toys_are_the_same_every_time(name: str) -> None:
    torch.manual_seed(1)
    one = make(name)
    torch.manual_seed(2)
    other = make(name)
    assert isinstance(one, nn.Module)
    assert isinstance(other, nn.Module)
    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


@pytest.mark.parametrize("name", SCALES)
def test_next_scale_teacher_forced_is_one_pass(name: str) -> None:
    prior = ready(name)
    assert isinstance(prior, NextScalePrior)
    lengths: list[int] = []
    prior.model.head.register_forward_hook(lambda layer, inputs, output: lengths.append(output.shape[1]))
    steps = stepwise(name, prior)
    assert lengths == [1, 4, 9, 16]
    lengths.clear()
    with audit():
        at_once = forced(prior, torch.cat(steps.symbols, 1))
    assert lengths == [30]
    assert_same(steps, at_once)


@pytest.mark.parametrize("name", SCALES)
def test_next_scale_sees_earlier_scales_alone(name: str) -> None:
    prior = ready(name)
    tokens = torch.cat(stepwise(name, prior, 1).symbols, 1)
    other = tokens.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 40  # the third scale and the fourth
    one, two = forced(prior, tokens), forced(prior, other)
    same = [torch.equal(a, b) for a, b in zip(one.numbers, two.numbers, strict=True)]
    assert same == [True, True, True, False]


@pytest.mark.parametrize("name", SCALES)
def test_next_scale_resampling_is_that_of_torch(name: str) -> None:
    prior = ready(name, NATIVE)
    assert isinstance(prior, NextScalePrior)
    scales = prior.scales
    tokens = stepwise(name, prior).symbols
    f_hat = torch.zeros(2, 8, 4, 4)
    for number, side in enumerate((1, 2, 3, 4)):
        h = scales.codebook.weight[tokens[number]].transpose(1, 2).view(2, 8, side, side)
        h = F.interpolate(h, (4, 4), mode="bicubic")
        phi = scales.phi[number // 2]
        expected = h * 0.5 + phi(h) * 0.5
        term = scales.term(tokens[number], number)
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, expected, rtol=1e-5, atol=1e-5)
        f_hat = f_hat + term
        resized = F.interpolate(f_hat, (side, side), mode="area").flatten(2).transpose(1, 2)
        torch.testing.assert_close(scales.features(f_hat, number), resized, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SCALES)
def test_head_scales_are_exponentials_at_most_100(name: str) -> None:
    prior = make(name)
    assert isinstance(prior, nn.Module)
    layers = [layer for layer in prior.modules() if isinstance(layer, HeadScale)]
    factors = torch.cat([layer().flatten() for layer in layers])
    exact = torch.cat([convert(layer)().flatten() for layer in layers])
    torch.testing.assert_close(factors.double(), exact, rtol=1e-6, atol=0)
    assert exact.max().item() == pytest.approx(100, rel=1e-12)
    assert (exact < 100).any()


def hyper(prior: Hyperprior, z: Tensor) -> Tensor:
    """What z [B, N, 1, 2] tells about y [B, ..., 4, 8]."""
    found = prior.parameters_of(z + prior.density.medians[:, None, None])[0]
    return found[:, :, :4, :8]


@pytest.mark.parametrize("name", ["context-mbt2018", "context-cheng2020"])
def test_context_of_the_whole_picture_is_that_of_the_cells(name: str) -> None:
    prior = ready(name)
    assert isinstance(prior, ContextPrior)
    found = stepwise(name, prior)
    symbols, scale, mean = found.y()
    context = prior.context_prediction(symbols + mean)
    cells = torch.cat([hyper(prior, found.symbols[0]), context], 1).permute(0, 2, 3, 1)
    scales, means = prior.entropy_parameters(cells).permute(0, 3, 1, 2).chunk(2, 1)
    assert torch.equal(scales.clamp(min=SMALLEST_SCALE), scale)
    assert torch.equal(means, mean)


@pytest.mark.parametrize("name", ["context-mbt2018", "context-cheng2020"])
def test_raster_order_gives_the_same_numbers(name: str) -> None:
    prior = ready(name)
    assert isinstance(prior, ContextPrior)
    diagonals = stepwise(name, prior)
    symbols, scale, mean = diagonals.y()
    prior.raster = True
    cells = [symbols.flatten(2)[:, :, cell] for cell in range(32)]
    blocks = prior.blocks(size(name, 2), Condition())
    raster = trace(prior, blocks, Replay([diagonals.symbols[0], *cells]))
    assert len(raster.symbols) == 1 + 32
    assert len(diagonals.symbols) == 1 + 8 + 3 * 3
    for ours, theirs in zip(raster.y(), (symbols, scale, mean), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["checkerboard", "checkerboard-odd"])
def test_checkerboard_of_the_whole_picture_is_that_of_the_passes(name: str) -> None:
    prior = ready(name)
    assert isinstance(prior, ChannelGroupPrior)
    found = stepwise(name, prior)
    symbols, scale, mean = found.y()
    y_hat, given = symbols + mean, hyper(prior, found.symbols[0])
    passes = colours(4, 8)
    anchors, others = reversed(passes) if prior.odd_anchors else passes
    for group in prior.groups:
        assert isinstance(group, ChannelGroup)
        own = slice(group.first, group.first + group.channels)
        known = group.given(y_hat, given).flatten(2)
        spatial = group.spatial_context(y_hat[:, own]).flatten(2)
        for cells, near in ((anchors, None), (others, spatial[:, :, others])):
            scales, means = group.parameters_of(near, known[:, :, cells])
            assert torch.equal(scales.clamp(min=SMALLEST_SCALE), scale[:, own].flatten(2)[:, :, cells])
            assert torch.equal(means, mean[:, own].flatten(2)[:, :, cells])


def test_checkerboard_goes_group_by_group_anchors_first() -> None:
    prior = ready("checkerboard")
    found = trace(prior, prior.blocks(Layout(1, 2, 2), Condition()))
    grid = [[0, 3], [1, 2]]  # anchors of a 2x2 grid, and the other cells
    expected = [
        [4 * channel + cell for channel in range(first, stop) for cell in cells]
        for first, stop in pairwise((0, 2, 4, 8, 14))
        for cells in grid
    ]
    assert [places.tolist() for places in found.positions if places is not None] == expected


def test_grids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit a latent grid of 4x6"):
        next(make("next-scale").blocks(Layout(1, 4, 6), Condition()))
    with pytest.raises(ConfigError, match="no grid 4 times coarser"):
        next(make("top-down").blocks(Layout(1, 6, 4), Condition()))

"""The causal context: order of the cells, and that the order changes no number."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from obverse.context import ContextPrior, surroundings
from obverse.hyperprior import SMALLEST_SCALE
from obverse.interfaces import Block, Condition, Layout, Prior
from obverse.loop import Quantized, run
from obverse.nn.density import FactorizedDensity
from obverse.nn.strided import deconvolution
from obverse.numerics import EXACT, MODES, NATIVE, prepare
from obverse.scalar import RoundingQuantizer
from obverse.selftest.seeded import fill, uniform
from obverse.testing import PriorContract

M, N = 5, 4
LAYOUT = Layout(2, 4, 8)


def small() -> ContextPrior:
    synthesis = nn.Sequential(deconvolution(N, 6), nn.LeakyReLU(), deconvolution(6, 2 * M))
    prior = ContextPrior(density=FactorizedDensity(N), latent_channels=M, hyper_synthesis=synthesis)
    for name in ("hyper_synthesis", "context_prediction", "entropy_parameters"):
        fill(getattr(prior, name), name, gain=0.7)
    last = prior.entropy_parameters[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.bias[:M] += 1.5  # scales that are not all the smallest
    return prior.requires_grad_(False).eval()


class TestContextPrior(PriorContract):
    def make(self) -> Prior:
        return small()

    def layouts(self) -> list[Layout]:
        return [Layout(1, 1, 1), Layout(3, 2, 3)]


class Trial:
    """What the prior codes of fixed latents."""

    def __init__(self, mode: str, *, raster: bool, layout: Layout = LAYOUT) -> None:
        prior = prepare(small(), mode)
        assert isinstance(prior, ContextPrior)
        prior.raster = raster
        sides = layout.height, layout.width
        latents = {
            "y": 5 * uniform((layout.batch, M, *sides), "y"),
            "z": 3 * uniform((layout.batch, N, *(-(-side // 4) for side in sides)), "z"),
        }
        source = Quantized(RoundingQuantizer(channels={"y": M, "z": N}), latents)
        self.prior, self.blocks = prior, list[Block]()

        def noted(block: Block) -> Tensor:
            self.blocks.append(block)
            return source(block)

        self.coded = run(prior.blocks(layout, Condition()), noted)
        self.z, *self.cells = self.coded
        places = torch.cat([part.positions for part in self.cells if part.positions is not None])
        order = places.argsort()
        shape = layout.batch, M, *sides
        self.symbols = torch.cat([part.symbols for part in self.cells], 1)[:, order].view(shape)
        self.scale, self.mean = (
            torch.cat([part.context[name] for part in self.cells], 1)[:, order].view(shape)
            for name in ("scale", "mean")
        )


@pytest.mark.parametrize("mode", MODES)
def test_raster_and_diagonals_give_the_same(mode: str) -> None:
    raster, diagonals = Trial(mode, raster=True), Trial(mode, raster=False)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if mode == NATIVE else {"atol": 1e-12, "rtol": 1e-12}
    if mode == EXACT:
        tolerance = {"atol": 0.0, "rtol": 0.0}
    assert torch.equal(raster.symbols, diagonals.symbols)
    assert raster.symbols.unique().numel() > 5
    torch.testing.assert_close(raster.mean, diagonals.mean, **tolerance)
    torch.testing.assert_close(raster.scale, diagonals.scale, **tolerance)
    assert len(raster.scale.unique()) > 100


@pytest.mark.parametrize(("height", "width"), [(4, 8), (8, 1), (1, 5), (3, 2)])
def test_steps(height: int, width: int) -> None:
    layout = Layout(1, height, width)
    assert len(Trial(EXACT, raster=True, layout=layout).cells) == height * width
    diagonals = [part for part in Trial(EXACT, raster=False, layout=layout).cells]
    sizes = [part.symbols.shape[1] // M for part in diagonals]
    assert sum(sizes) == height * width
    if width > 2:
        assert len(sizes) == width + 3 * (height - 1)


def test_raster_codes_all_channels_of_a_cell_together() -> None:
    cells = Trial(NATIVE, raster=True).cells
    plane = LAYOUT.height * LAYOUT.width
    for cell, part in enumerate(cells):
        assert part.positions is not None
        assert part.positions.tolist() == [channel * plane + cell for channel in range(M)]


def test_parameters_are_those_of_the_whole_picture() -> None:
    """Once y_hat is known, a convolution over all of it gives what the cells got one by one."""
    trial = Trial(EXACT, raster=False)
    prior, y_hat = trial.prior, trial.symbols + trial.mean
    hyper = prior.parameters_of(trial.z.symbols + prior.density.medians[:, None, None])[0]
    cells = torch.cat([hyper, prior.context_prediction(y_hat)], 1).permute(0, 2, 3, 1)
    scale, mean = prior.entropy_parameters(cells).permute(0, 3, 1, 2).chunk(2, 1)
    assert torch.equal(mean, trial.mean)
    assert torch.equal(scale.clamp(min=SMALLEST_SCALE), trial.scale)


def test_blocks_see_earlier_cells_alone() -> None:
    """Other symbols of a block change no parameters of the block itself or of those before it."""
    first = Trial(EXACT, raster=False)
    blocks = first.prior.blocks(LAYOUT, Condition())
    changed, found = 6, [next(blocks)]
    for number, part in enumerate(first.coded[:-1]):
        found.append(blocks.send(part.symbols + 3 if number == changed else part.symbols))
    same = [
        torch.equal(ours.context["mean"], theirs.context["mean"])
        for ours, theirs in zip(found[1:], first.blocks[1:], strict=True)
    ]
    assert all(same[:changed])
    assert not same[changed]


def test_surroundings() -> None:
    padded = torch.arange(2 * 7 * 9 * 3.0).view(2, 7, 9, 3)
    rows, columns = torch.tensor([0, 2]), torch.tensor([4, 1])
    found = surroundings(padded, rows, columns).view(2, 2, 3, 5, 5)
    for cell, (i, j) in enumerate(zip(rows, columns, strict=True)):
        assert torch.equal(found[:, cell], padded[:, i : i + 5, j : j + 5].permute(0, 3, 1, 2))


def test_blocks_of_one_diagonal_lie_three_columns_apart() -> None:
    for part in Trial(NATIVE, raster=False).cells:
        assert part.positions is not None
        cells = [int(place) for place in part.positions[: len(part.positions) // M]]
        steps = [(b // 8 - a // 8, b % 8 - a % 8) for a, b in pairwise(cells)]
        assert set(steps) <= {(1, -3)}


def test_a_float_convolution_is_that_of_its_patches() -> None:
    layer = small().context_prediction.double()
    x = uniform((2, M, 6, 7), "x").double()
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2)).permute(0, 2, 3, 1)
    rows, columns = (cells.flatten() for cells in torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij"))
    patches = layer(surroundings(padded, rows, columns), padded=False).view(2, 6, 7, 2 * M).permute(0, 3, 1, 2)
    torch.testing.assert_close(patches, layer(x), atol=1e-12, rtol=1e-12)

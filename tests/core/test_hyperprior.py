"""Factorized priors and hyperpriors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from obverse.coders.ideal import IdealEncoder
from obverse.hyperprior import FactorizedPrior, Hyperprior, gaussian_likelihood, logistic_likelihood
from obverse.interfaces import Block, Condition, Layout, Prior
from obverse.loop import Encoding, Quantized, run
from obverse.nn.density import FactorizedDensity
from obverse.nn.strided import deconvolution
from obverse.numerics import EXACT, GUARDED64, MODES, prepare
from obverse.scalar import RoundingQuantizer
from obverse.testing import PriorContract


class Small(Hyperprior):
    def __init__(self, mean: bool = True) -> None:
        super().__init__(density=FactorizedDensity(4))
        self.mean = mean
        self.net = nn.Sequential(deconvolution(4, 6), nn.ReLU(), deconvolution(6, 10))

    def parameters_of(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        scale, mean = self.net(z).chunk(2, 1)
        return scale + 1.5, mean if self.mean else None


def small(mean: bool = True) -> Prior:
    torch.manual_seed(1)
    return Small(mean).eval().requires_grad_(False)


class TestHyperprior(PriorContract):
    def make(self) -> Prior:
        return small()


class TestFactorizedPrior(PriorContract):
    def make(self) -> Prior:
        torch.manual_seed(1)
        return FactorizedPrior(latent_channels=3).eval().requires_grad_(False)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_bits_are_near_the_likelihoods(mean: bool, mode: str) -> None:
    prior = prepare(small(mean), mode)
    generator = torch.Generator().manual_seed(0)
    latents = {"y": torch.randn(2, 5, 16, 16, generator=generator), "z": torch.randn(2, 4, 4, 4, generator=generator)}
    encoder, expected = IdealEncoder(), 0.0
    blocks: list[tuple[Block, Tensor]] = []
    source = Quantized(RoundingQuantizer(channels={"y": 5, "z": 4}), latents)

    def noted(block: Block) -> Tensor:
        symbols = source(block)
        blocks.append((block, symbols))
        return symbols

    coded = run(prior.blocks(Layout(2, 16, 16), Condition()), Encoding(noted, [encoder]))
    (z, z_symbols), (y, y_symbols) = blocks
    assert isinstance(prior, Hyperprior)
    expected -= prior.density.double().likelihood(z_symbols + z.context["mean"].double()).log2().sum().item()
    expected -= gaussian_likelihood(y_symbols.double(), y.context["scale"].double()).log2().sum().item()
    assert encoder.bits == pytest.approx(expected, rel=0.005)
    assert [part.name for part in coded] == ["z", "y"]
    assert ("mean" in y.context) == mean


def test_likelihoods_are_integrals() -> None:
    scale = torch.tensor([0.11, 0.5, 3.0, 40.0]).double()
    for k in (0, 1, -2, 5):
        at = torch.full_like(scale, k)
        normal = [(math.erf((k + 0.5) / s / 2**0.5) - math.erf((k - 0.5) / s / 2**0.5)) / 2 for s in scale.tolist()]
        torch.testing.assert_close(gaussian_likelihood(at, scale), torch.tensor(normal).double().clamp(min=1e-9))
        logistic = torch.sigmoid((k + 0.5) / scale) - torch.sigmoid((k - 0.5) / scale)
        torch.testing.assert_close(logistic_likelihood(at, scale), logistic.clamp(min=1e-9))


def test_scales_have_a_floor() -> None:
    block = small()
    assert isinstance(block, Hyperprior)
    prepare(block, GUARDED64)
    made = block.latents(torch.full((1, 2), -3.0).double(), None)
    assert made.context["scale"].tolist() == [[0.11, 0.11]]
    assert EXACT in MODES

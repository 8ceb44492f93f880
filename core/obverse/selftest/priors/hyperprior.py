"""Hyperpriors in small: mean and scale of y from z (arXiv:1809.02736)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from obverse.hyperprior import Hyperprior
from obverse.interfaces import Prior
from obverse.nn.density import FactorizedDensity
from obverse.nn.gdn import GDN
from obverse.nn.hyper_synthesis import hyper_synthesis
from obverse.selftest import seeded
from obverse.selftest.priors.factorized import seeded_density


class SmallHyperprior(Hyperprior):
    """Two transposed convolutions and a convolution, with an activation of choice.

    Args:
        density: of z.
        latent_channels: M.
        activation: makes the activation of a width.
        smooth: scales by softplus in place of a clamp.
    """

    def __init__(
        self,
        *,
        density: FactorizedDensity,
        latent_channels: int,
        activation: Callable[[int], nn.Module],
        smooth: bool = False,
    ) -> None:
        super().__init__(density=density)
        widths = latent_channels, latent_channels * 3 // 2, 2 * latent_channels
        self.hyper_synthesis = hyper_synthesis(len(density.medians), widths, activation)
        self.positive = nn.Softplus() if smooth else nn.Identity()

    def parameters_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        scale, mean = self.hyper_synthesis(z).chunk(2, 1)
        return self.positive(scale), mean


def toys() -> dict[str, Prior]:
    """Small ones with seeded weights, by name."""
    return {
        "hyperprior-leaky": _toy("hyperprior-leaky", lambda channels: nn.LeakyReLU()),
        "hyperprior-relu": _toy("hyperprior-relu", lambda channels: nn.ReLU(), smooth=True),
        "hyperprior-gdn": _toy("hyperprior-gdn", lambda channels: GDN(channels, inverse=True), smooth=True),
    }


@torch.no_grad()
def _toy(name: str, activation: Callable[[int], nn.Module], smooth: bool = False) -> SmallHyperprior:
    prior = SmallHyperprior(density=seeded_density(7, name), latent_channels=10, activation=activation, smooth=smooth)
    seeded.fill(prior.hyper_synthesis, name, gain=0.4 if "gdn" in name else 1.5)  # inverse GDN squares, nearly
    for layer in prior.modules():
        if isinstance(layer, GDN):
            layer.gamma.abs_()
    return prior.eval()

"""Hyperpriors with a causal context in small (mbt2018, arXiv:1809.02736; cheng2020, arXiv:2001.01568)."""

from __future__ import annotations

import torch
from torch import nn

from obverse.context import ContextPrior
from obverse.interfaces import Prior
from obverse.nn.density import FactorizedDensity
from obverse.nn.strided import deconvolution, subpixel
from obverse.selftest import seeded
from obverse.selftest.priors.factorized import seeded_density


def mbt2018(hyper_channels: int, latent_channels: int) -> nn.Sequential:
    """Hyper-synthesis [B, N, h/4, w/4] -> [B, 2M, h, w] by transposed convolutions."""
    n, m = hyper_channels, latent_channels
    return nn.Sequential(
        deconvolution(n, m), nn.LeakyReLU(),
        deconvolution(m, m * 3 // 2), nn.LeakyReLU(),
        nn.Conv2d(m * 3 // 2, 2 * m, 3, padding=1),
    )  # fmt: skip


def cheng2020(hyper_channels: int, latent_channels: int) -> nn.Sequential:
    """Hyper-synthesis [B, N, h/4, w/4] -> [B, 2M, h, w] by sub-pixel convolutions."""
    n, m = hyper_channels, latent_channels
    return nn.Sequential(
        nn.Conv2d(n, n, 3, padding=1), nn.LeakyReLU(),
        subpixel(n, n), nn.LeakyReLU(),
        nn.Conv2d(n, n * 3 // 2, 3, padding=1), nn.LeakyReLU(),
        subpixel(n * 3 // 2, n * 3 // 2), nn.LeakyReLU(),
        nn.Conv2d(n * 3 // 2, 2 * m, 3, padding=1),
    )  # fmt: skip


def toys() -> dict[str, Prior]:
    """Small float priors with seeded weights, by case."""
    return {
        f"context-{synthesis.__name__}": _toy(f"context-{synthesis.__name__}", synthesis(6, 9))
        for synthesis in (mbt2018, cheng2020)
    }


def _toy(name: str, hyper_synthesis: nn.Module) -> ContextPrior:
    prior = ContextPrior(density=FactorizedDensity(6), latent_channels=9, hyper_synthesis=hyper_synthesis)
    seeded.fill(prior, name, gain=0.6)
    prior.density = seeded_density(6, name)
    raise_scales(prior.entropy_parameters)
    return prior


@torch.no_grad()
def raise_scales(entropy_parameters: nn.Sequential) -> None:
    """Move seeded scales to about one, so that few of them are below the smallest."""
    last = entropy_parameters[-1]
    assert isinstance(last, nn.Linear)
    last.bias[: last.out_features // 2] += 1

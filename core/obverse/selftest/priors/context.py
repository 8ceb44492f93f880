"""Hyperpriors with a causal context in small (mbt2018, arXiv:1809.02736; cheng2020, arXiv:2001.01568)."""

from __future__ import annotations

import torch
from torch import nn

from obverse.context import ContextPrior
from obverse.interfaces import Prior
from obverse.nn.density import FactorizedDensity
from obverse.nn.hyper_synthesis import hyper_synthesis, subpixel_hyper_synthesis
from obverse.selftest import seeded
from obverse.selftest.priors.factorized import seeded_density


def toys() -> dict[str, Prior]:
    """Small float priors with seeded weights, by case."""
    networks = {
        "context-mbt2018": hyper_synthesis(6, (9, 13, 18), lambda channels: nn.LeakyReLU()),
        "context-cheng2020": subpixel_hyper_synthesis(6, 9),
    }
    return {name: _toy(name, network) for name, network in networks.items()}


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

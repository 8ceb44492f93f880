"""A factorized prior: one integer table per channel (arXiv:1802.01436)."""

from __future__ import annotations

import torch

from obverse.hyperprior import FactorizedPrior
from obverse.interfaces import Prior
from obverse.nn.density import FactorizedDensity
from obverse.selftest import seeded


@torch.no_grad()
def seeded_density(channels: int, seed: str, gates: int | None = None) -> FactorizedDensity:
    """One whose mass lies within about ten integers, and is not symmetric."""
    density = FactorizedDensity(channels, gates=gates, initial_scale=3)
    for name, parameter in density.named_parameters():
        values = seeded.uniform(tuple(parameter.shape), f"{seed}/{name}")
        if name.startswith("matrices"):
            parameter.add_(values / 4)
        else:
            parameter.copy_(values / 2)
    return density


def toys() -> dict[str, Prior]:
    """A small one with seeded weights, by name."""
    prior = FactorizedPrior(latent_channels=5)
    prior.density = seeded_density(5, "factorized")
    return {"factorized": prior.eval()}

"""MS-ILLM's hyperprior."""

from __future__ import annotations

from obverse.hific import HificHyperprior
from obverse.nn.density import FactorizedDensity


class MeanScalePrior(HificHyperprior):
    """With CompressAI's density for z.

    Args:
        latent_channels: M of y.
        hyper_channels: N of z.
    """

    def __init__(self, *, latent_channels: int, hyper_channels: int) -> None:
        density = FactorizedDensity(hyper_channels)
        super().__init__(latent_channels=latent_channels, hyper_channels=hyper_channels, density=density)

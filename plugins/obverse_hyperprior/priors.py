"""The priors: what z tells about y.

Shape notation:
    B batch, M channels of y, N channels inside, also of z, h and w sides of y's grid.
"""

from __future__ import annotations

from torch import Tensor, nn

from obverse.context import ContextPrior
from obverse.hyperprior import Hyperprior
from obverse.nn.density import FactorizedDensity
from obverse.nn.hyper_synthesis import hyper_synthesis, subpixel_hyper_synthesis


class ScaleHyperprior(Hyperprior):
    """Scales of Gaussians around zero (arXiv:1802.01436, figure 4).

    Args:
        width: N.
        latent_channels: M.
    """

    def __init__(self, *, width: int, latent_channels: int) -> None:
        super().__init__(density=FactorizedDensity(width))
        n, m = width, latent_channels
        self.hyper_synthesis = nn.Sequential(*hyper_synthesis(n, (n, n, m)), nn.ReLU())

    def parameters_of(self, z: Tensor) -> tuple[Tensor, None]:
        return self.hyper_synthesis(z), None


class MeanScaleHyperprior(Hyperprior):
    """Means and scales (arXiv:1809.02736, without the context).

    Args:
        width: N.
        latent_channels: M.
    """

    def __init__(self, *, width: int, latent_channels: int) -> None:
        super().__init__(density=FactorizedDensity(width))
        self.hyper_synthesis = hyper_synthesis(width, _widths(latent_channels), _leaky)

    def parameters_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        scale, mean = self.hyper_synthesis(z).chunk(2, 1)
        return scale, mean


class JointPrior(ContextPrior):
    """Means and scales from z and from the causal context (arXiv:1809.02736, table 1).

    Args:
        width: N.
        latent_channels: M.
    """

    def __init__(self, *, width: int, latent_channels: int) -> None:
        super().__init__(
            density=FactorizedDensity(width),
            latent_channels=latent_channels,
            hyper_synthesis=hyper_synthesis(width, _widths(latent_channels), _leaky),
        )


class ResidualPrior(ContextPrior):
    """As `JointPrior`, with the hyper-synthesis of arXiv:2001.01568 and, as in the released models, one Gaussian.

    Args:
        width: N, also of y.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__(
            density=FactorizedDensity(width),
            latent_channels=width,
            hyper_synthesis=subpixel_hyper_synthesis(width, width),
        )


def _widths(latent_channels: int) -> tuple[int, int, int]:
    """Of the hyper-synthesis of means and scales."""
    return latent_channels, latent_channels * 3 // 2, 2 * latent_channels


def _leaky(channels: int) -> nn.Module:
    return nn.LeakyReLU()

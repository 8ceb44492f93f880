"""What hyper-latents tell about latents: networks from z [B, N, h / 4, w / 4] to numbers on y's grid [B, ..., h, w]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from obverse.errors import ConfigError
from obverse.nn.strided import convolution, deconvolution, subpixel


def hyper_synthesis(
    hyper_channels: int, widths: Sequence[int], activation: Callable[[int], nn.Module] | None = None
) -> nn.Sequential:
    """Two transposed convolutions of stride 2 and a 3x3 convolution (arXiv:1809.02736, table 1).

    Args:
        hyper_channels: N.
        widths: channels after each of the three.
        activation: makes what stands between them from the channels there; by default ReLU.

    Raises:
        ConfigError: there are not three widths.
    """
    if len(widths) != 3:
        raise ConfigError(f"the hyper-synthesis has 3 layers, hyper_widths tells of {len(widths)}")
    first, second, last = widths
    between = activation or (lambda channels: nn.ReLU())
    return nn.Sequential(
        deconvolution(hyper_channels, first),
        between(first),
        deconvolution(first, second),
        between(second),
        convolution(second, last, 3, 1),
    )


def subpixel_hyper_synthesis(hyper_channels: int, latent_channels: int) -> nn.Sequential:
    """3x3 convolutions and pixel shuffles with LeakyReLU between them, to 2M channels (arXiv:2001.01568, figure 4).

    Args:
        hyper_channels: N.
        latent_channels: M.
    """
    n, wide = hyper_channels, hyper_channels * 3 // 2
    return nn.Sequential(
        convolution(n, n, 3, 1),
        nn.LeakyReLU(),
        subpixel(n, n),
        nn.LeakyReLU(),
        convolution(n, wide, 3, 1),
        nn.LeakyReLU(),
        subpixel(wide, wide),
        nn.LeakyReLU(),
        convolution(wide, 2 * latent_channels, 3, 1),
    )

"""The transforms: images to y and, for the hyperprior, y to z; y back to images.

Shape notation:
    B batch, H and W sides of the image, M channels of y, N channels inside, also of z.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from obverse.interfaces import Condition, Encoder, Latents
from obverse.nn.gated_attention import AttentionBlock
from obverse.nn.gdn import GDN
from obverse.nn.strided import channels_last, convolution, deconvolution, subpixel
from obverse_hyperprior.residual import Downsampling, ResidualBlock, Upsampling


class Autoencoder(Encoder, nn.Module):
    """y alone, at stride 16.

    Args:
        analysis: [B, 3, H, W] -> y [B, M, H / 16, W / 16].
        synthesis: y -> [B, 3, H, W].
        latent_channels: M.
        margin: cells of `multiple` pixels on which a value depends.
    """

    def __init__(self, *, analysis: nn.Module, synthesis: nn.Module, latent_channels: int, margin: int) -> None:
        super().__init__()
        self.stride = self.multiple = 16
        self.margin = margin
        self.channels: Mapping[str, int] = {"y": latent_channels}
        self.analysis, self.synthesis = analysis, synthesis

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        return {"y": self.analysis(channels_last(images)).contiguous()}

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        return self.synthesis(channels_last(latents["y"]))  # type: ignore[no-any-return]


class HyperAutoencoder(Autoencoder):
    """y, and z at stride 64, which follows from y.

    Args:
        analysis, synthesis, latent_channels, margin: as for `Autoencoder`.
        hyper_analysis: y -> z [B, N, H / 64, W / 64].
        width: N.
        magnitudes: z sees |y|.
    """

    def __init__(
        self,
        *,
        analysis: nn.Module,
        synthesis: nn.Module,
        hyper_analysis: nn.Module,
        width: int,
        latent_channels: int,
        margin: int,
        magnitudes: bool = False,
    ) -> None:
        super().__init__(analysis=analysis, synthesis=synthesis, latent_channels=latent_channels, margin=margin)
        self.multiple = 64
        self.channels = {"y": latent_channels, "z": width}
        self.hyper_analysis, self.magnitudes = hyper_analysis, magnitudes

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        y = super().encode(images, condition)["y"]
        return {"y": y, "z": self.hyper_analysis(y.abs() if self.magnitudes else y)}


class FactorizedAutoencoder(Autoencoder):
    """Strided convolutions with GDN between them (arXiv:1802.01436, figure 4, without the hyperprior).

    Args:
        width: N.
        latent_channels: M.
    """

    def __init__(self, *, width: int, latent_channels: int) -> None:
        super().__init__(
            analysis=gdn_analysis(width, latent_channels),
            synthesis=gdn_synthesis(width, latent_channels),
            latent_channels=latent_channels,
            margin=2,
        )


class ScaleAutoencoder(HyperAutoencoder):
    """For scales alone: z sees the magnitudes of y (arXiv:1802.01436, figure 4).

    Args:
        width: N.
        latent_channels: M.
    """

    def __init__(self, *, width: int, latent_channels: int) -> None:
        super().__init__(
            analysis=gdn_analysis(width, latent_channels),
            synthesis=gdn_synthesis(width, latent_channels),
            hyper_analysis=hyper_analysis(width, latent_channels, nn.ReLU()),
            width=width,
            latent_channels=latent_channels,
            margin=3,
            magnitudes=True,
        )


class MeanScaleAutoencoder(HyperAutoencoder):
    """For means and scales: z sees y (arXiv:1809.02736, table 1).

    Args:
        width: N.
        latent_channels: M.
    """

    def __init__(self, *, width: int, latent_channels: int) -> None:
        super().__init__(
            analysis=gdn_analysis(width, latent_channels),
            synthesis=gdn_synthesis(width, latent_channels),
            hyper_analysis=hyper_analysis(width, latent_channels, nn.LeakyReLU()),
            width=width,
            latent_channels=latent_channels,
            margin=3,
        )


class ResidualAutoencoder(HyperAutoencoder):
    """Residual blocks of 3x3 convolutions, with attention or without (arXiv:2001.01568, figure 4).

    Args:
        width: N, also of y.
        attention: attention at strides 4 and 16.
    """

    def __init__(self, *, width: int, attention: bool) -> None:
        super().__init__(
            analysis=residual_analysis(width, attention),
            synthesis=residual_synthesis(width, attention),
            hyper_analysis=residual_hyper_analysis(width),
            width=width,
            latent_channels=width,
            margin=4 if attention else 3,
        )


def gdn_analysis(width: int, latent_channels: int) -> nn.Sequential:
    """[B, 3, H, W] -> [B, M, H / 16, W / 16]."""
    n, m = width, latent_channels
    return nn.Sequential(
        convolution(3, n),
        GDN(n),
        convolution(n, n),
        GDN(n),
        convolution(n, n),
        GDN(n),
        convolution(n, m),
    )


def gdn_synthesis(width: int, latent_channels: int) -> nn.Sequential:
    """[B, M, h, w] -> [B, 3, 16 h, 16 w]."""
    n, m = width, latent_channels
    return nn.Sequential(
        deconvolution(m, n),
        GDN(n, inverse=True),
        deconvolution(n, n),
        GDN(n, inverse=True),
        deconvolution(n, n),
        GDN(n, inverse=True),
        deconvolution(n, 3),
    )


def hyper_analysis(width: int, latent_channels: int, activation: nn.Module) -> nn.Sequential:
    """[B, M, h, w] -> [B, N, h / 4, w / 4]."""
    n, m = width, latent_channels
    return nn.Sequential(
        convolution(m, n, 3, 1),
        activation,
        convolution(n, n),
        activation,
        convolution(n, n),
    )


def residual_analysis(width: int, attention: bool) -> nn.Sequential:
    """[B, 3, H, W] -> [B, N, H / 16, W / 16]."""
    n = width
    return nn.Sequential(
        Downsampling(3, n),
        ResidualBlock(n),
        Downsampling(n, n),
        *([AttentionBlock(n)] if attention else []),
        ResidualBlock(n),
        Downsampling(n, n),
        ResidualBlock(n),
        convolution(n, n, 3),
        *([AttentionBlock(n)] if attention else []),
    )


def residual_synthesis(width: int, attention: bool) -> nn.Sequential:
    """[B, N, h, w] -> [B, 3, 16 h, 16 w]."""
    n = width
    return nn.Sequential(
        *([AttentionBlock(n)] if attention else []),
        ResidualBlock(n),
        Upsampling(n, n),
        ResidualBlock(n),
        Upsampling(n, n),
        *([AttentionBlock(n)] if attention else []),
        ResidualBlock(n),
        Upsampling(n, n),
        ResidualBlock(n),
        subpixel(n, 3),
    )


def residual_hyper_analysis(width: int) -> nn.Sequential:
    """[B, N, h, w] -> [B, N, h / 4, w / 4]."""
    n = width
    return nn.Sequential(
        convolution(n, n, 3, 1),
        nn.LeakyReLU(),
        convolution(n, n, 3, 1),
        nn.LeakyReLU(),
        convolution(n, n, 3),
        nn.LeakyReLU(),
        convolution(n, n, 3, 1),
        nn.LeakyReLU(),
        convolution(n, n, 3),
    )

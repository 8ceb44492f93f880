"""Convolutional transforms of the pocket codecs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from obverse.interfaces import Condition, Encoder, Latents
from obverse.nn.residual import pixel_analysis, pixel_synthesis, reach
from obverse_pocket.hyperprior import Features, log_gains
from obverse_pocket.lapped import BANDS, LappedAnalysis, LappedSynthesis


class ConvAutoencoder(Encoder, nn.Module):
    """One latent grid `tokens` for a vector quantizer.

    Args:
        widths: channels per stage; the stride is `patch * 2 ** (len(widths) - 1)`.
        encoder_blocks: residual blocks per stage of the analysis.
        decoder_blocks: residual blocks per stage of the synthesis.
        latent_channels: D of the latent [B, D, h, w].
        patch: side in pixels of a cell of the first stage.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        encoder_blocks: Sequence[int],
        decoder_blocks: Sequence[int],
        latent_channels: int,
        patch: int = 4,
    ) -> None:
        super().__init__()
        self.stride = self.multiple = patch * 2 ** (len(widths) - 1)
        self.margin = -(-max(reach(encoder_blocks, patch), reach(decoder_blocks, patch)) // self.multiple)
        self.channels = {"tokens": latent_channels}
        self.analysis = pixel_analysis(tuple(widths), tuple(encoder_blocks), latent_channels, patch)
        self.synthesis = pixel_synthesis(tuple(widths), tuple(decoder_blocks), latent_channels, patch)

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        return {"tokens": self.analysis(images * 2 - 1)}

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        return (self.synthesis(latents["tokens"]) + 1) / 2  # type: ignore[no-any-return]


class HyperAutoencoder(Encoder, nn.Module):
    """Latents `y` at stride 16 and hyper-latents `z` at stride 64 (arXiv:1809.02736), with gains per quality.

    A lapped linear transform makes the latents and the picture, and networks beside it correct both. The networks
    end in zeros at first, so that training starts from a transform codec and not from nothing.

    One network serves every rate: y is multiplied by a positive vector that depends on the quality before
    rounding, and divided by another before synthesis (gain units, arXiv:2003.02012).

    Args:
        latent_channels: M of y [B, M, h, w].
        analysis_widths: channels of the three stages of the network of the analysis, at strides 4, 8 and 16.
        analysis_blocks: residual blocks per stage.
        synthesis_widths, synthesis_blocks: the same of the synthesis.
        hyper_width: channels inside the hyper-analysis.
        hyper_channels: N of z [B, N, h/4, w/4].
        qualities: number of operating points.
        gains: of the lowest and the highest quality at first, spaced evenly in the logarithm between.

    Raises:
        ValueError: not three stages.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        analysis_widths: Sequence[int],
        analysis_blocks: Sequence[int],
        synthesis_widths: Sequence[int],
        synthesis_blocks: Sequence[int],
        hyper_width: int,
        hyper_channels: int,
        qualities: int,
        gains: tuple[float, float] = (0.56, 4.4),
    ) -> None:
        super().__init__()
        if {len(analysis_widths), len(synthesis_widths)} != {3}:
            raise ValueError(
                "analysis_widths and synthesis_widths have three stages: the lapped transform has stride 16"
            )
        self.stride = BANDS
        self.multiple = self.stride * 4
        # The hyper-analysis reaches 1 + 2 + 4 latent cells further.
        self.margin = -(-(max(reach(analysis_blocks), reach(synthesis_blocks)) + 7 * self.stride) // self.multiple)
        self.qualities = qualities
        self.channels = {"y": latent_channels, "z": hyper_channels}
        self.lapped_analysis = LappedAnalysis(latent_channels)
        self.lapped_synthesis = LappedSynthesis(latent_channels)
        self.analysis = pixel_analysis(tuple(analysis_widths), tuple(analysis_blocks), latent_channels)
        self.synthesis = pixel_synthesis(tuple(synthesis_widths), tuple(synthesis_blocks), latent_channels)
        nn.init.zeros_(self.analysis[-1].weight)
        nn.init.zeros_(self.synthesis[-2].weight)
        self.hyper_analysis = nn.Sequential(
            Features(),
            nn.Conv2d(2 * latent_channels, hyper_width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(hyper_width, hyper_width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(hyper_width, hyper_channels, 3, padding=1),
        )
        with torch.no_grad():
            # Smaller z would all be rounded to zero at first, tell nothing, and stay like that.
            for layer in self.hyper_analysis[1::2]:
                layer.weight *= 6
        first = log_gains(gains, qualities).expand(-1, latent_channels)
        self.log_gain = nn.Parameter(first.clone())
        self.log_inverse_gain = nn.Parameter(-first)
        self.step_features = nn.Parameter(torch.zeros(qualities, synthesis_widths[-1]))

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        return self.analyse(images, torch.tensor([condition.quality], device=images.device))

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        y = latents["y"]
        return self.synthesise(y, torch.tensor([condition.quality], device=y.device))

    def analyse(self, images: Tensor, quality: Tensor) -> Latents:
        """As `encode`, with one quality per image, [B] int64 (or [1] for all)."""
        centred = images * 2 - 1
        y = (self.lapped_analysis(centred) + self.analysis(centred)) * self.log_gain[quality].exp()[:, :, None, None]
        return {"y": y, "z": self.hyper_analysis(y)}

    def synthesise(self, y: Tensor, quality: Tensor) -> Tensor:
        """As `decode`, with one quality per image, [B] int64 (or [1] for all)."""
        y = y * self.log_inverse_gain[quality].exp()[:, :, None, None]
        hidden = self.synthesis[0](y) + self.step_features[quality][:, :, None, None]
        return (self.lapped_synthesis(y) + self.synthesis[1:](hidden) + 1) / 2  # type: ignore[no-any-return]

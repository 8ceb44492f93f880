"""The image tokenizers, DI8x8 and DI16x16 (arXiv:2501.03575, section 5)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from obverse.interfaces import Condition, Encoder, Latents
from obverse.nn.autoencoder import Analysis, Synthesis
from obverse_cosmos.haar import log2, patch_image, unpatch_image


class CosmosImageAutoencoder(Encoder, nn.Module):
    """The convolutional autoencoder of VQGAN over Haar bands.

    Wavelets take the first log2(patch) halvings of the grid; the first levels of the network take the rest, and levels
    that are left do not change its size. It looks at the whole picture (norms and attention).

    Args:
        patch: side in pixels of the wavelets' patches, a power of two.
        stride: pixels per token, a power of two.
        dim: channels of a token's latent.
        z_channels: channels between the networks and the projections.
        width: channels of the first convolution.
        multipliers: width of each level, in units of `width`.
        blocks: residual blocks per level of the analysis; the synthesis has one more.
        attention_levels: levels of the analysis with attention, 0 has the highest resolution.
        synthesis_attention_levels: those of the synthesis, where they differ.
    """

    def __init__(
        self,
        *,
        patch: int,
        stride: int,
        dim: int = 6,
        z_channels: int = 256,
        width: int = 128,
        multipliers: Sequence[int] = (2, 4, 4),
        blocks: int = 2,
        attention_levels: Collection[int] = (),
        synthesis_attention_levels: Collection[int] | None = None,
    ) -> None:
        super().__init__()
        halvings = log2(stride) - log2(patch)
        if not 0 <= halvings <= len(multipliers):
            raise ValueError(f"{len(multipliers)} levels cannot go from patches of {patch} to a stride of {stride}")
        levels = attention_levels if synthesis_attention_levels is None else synthesis_attention_levels
        self.patch = patch
        self.stride = self.multiple = stride
        self.channels = {"tokens": dim}
        self.encoder = Analysis(
            in_channels=3 * patch**2,
            out_channels=z_channels,
            width=width,
            multipliers=multipliers,
            blocks=blocks,
            attention_levels=attention_levels,
            halvings=halvings,
        )
        self.decoder = Synthesis(
            in_channels=z_channels,
            out_channels=3 * patch**2,
            width=width,
            multipliers=multipliers,
            blocks=blocks + 1,
            attention_levels=levels,
            doublings=halvings,
        )
        self.quant_conv = nn.Conv2d(z_channels, dim, 1)
        self.post_quant_conv = nn.Conv2d(dim, z_channels, 1)

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        return {"tokens": self.quant_conv(self.encoder(patch_image(images * 2 - 1, self.patch)))}

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        bands = self.decoder(self.post_quant_conv(latents["tokens"]))
        return (unpatch_image(bands, self.patch) + 1) / 2

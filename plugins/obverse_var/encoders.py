"""The autoencoder of VAR's tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from obverse.errors import ConfigError
from obverse.vq import VQAutoencoder


class TileAutoencoder(VQAutoencoder):
    """A `VQAutoencoder` for tiles of one size: the tokenizer's scales and the prior's positions are bound to it.

    Args:
        tile: side of a tile in pixels.
        qualities: operating points, which differ in the number of scales that are coded; by default the last, which
            codes all.
        embed_dim, z_channels, width, multipliers, blocks, attention_levels, projection: as for `VQAutoencoder`.
    """

    def __init__(
        self,
        *,
        tile: int,
        qualities: int = 1,
        embed_dim: int,
        z_channels: int,
        width: int = 160,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention_levels: Collection[int] = (4,),
        projection: int = 3,
    ) -> None:
        super().__init__(
            embed_dim=embed_dim,
            z_channels=z_channels,
            width=width,
            multipliers=multipliers,
            blocks=blocks,
            attention_levels=attention_levels,
            projection=projection,
        )
        if tile % self.stride:
            raise ConfigError(f"tiles of {tile} pixels are no whole cells of {self.stride}")
        self.tile, self.qualities, self.default_quality = tile, qualities, qualities

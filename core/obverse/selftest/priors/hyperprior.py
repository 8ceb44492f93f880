"""Hyperpriors in CompressAI's shape: z from stored tables, mean and scale of y from z (arXiv:1809.02736)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.nn.gdn import GDN
from obverse.selftest.priors.factorized import seeded_tables, stored
from obverse.selftest.seeded import fill, uniform

SMALLEST_SCALE = 0.11
_STRIDE = 4  # cells of y per cell of z


def _activation(name: str, channels: int) -> nn.Module:
    if name == "gdn":
        return GDN(channels, inverse=True)
    return nn.LeakyReLU() if name == "leaky" else nn.ReLU()


def _double(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """[B, C, h, w] -> [B, N, 2h, 2w]."""
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)


class Hyperprior(Prior, nn.Module):
    """Two blocks: z, then y.

    Args:
        latent_channels: M of y.
        tables: frequencies of z, [N, S] int32, as for `factorized.Factorized`.
        medians: [N] floating point, what z is moved by.
        activation: "leaky" (mbt2018-mean), "relu" or "gdn".
        smooth: scales by softplus in place of a clamp.
    """

    exact: ClassVar[bool] = True
    tables: Tensor
    medians: Tensor

    def __init__(
        self, *, latent_channels: int, tables: Tensor, medians: Tensor, activation: str, smooth: bool = False
    ) -> None:
        super().__init__()
        self.alphabets: Mapping[str, int | None] = {"y": None, "z": None}
        self.register_buffer("tables", tables)
        self.register_buffer("medians", medians[:, None, None])
        hyper, width = len(tables), latent_channels * 3 // 2
        self.h_s = nn.Sequential(
            _double(hyper, latent_channels), _activation(activation, latent_channels),
            _double(latent_channels, width), _activation(activation, width),
            nn.Conv2d(width, 2 * latent_channels, 3, padding=1),
        )  # fmt: skip
        self.softplus = nn.Softplus() if smooth else None

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        height, width = -(-layout.height // _STRIDE), -(-layout.width // _STRIDE)
        z = yield Block("z", stored(self.tables, Layout(layout.batch, height, width)))
        both = self.h_s(z + self.medians)[:, :, : layout.height, : layout.width]
        scale, mean = both.chunk(2, 1)
        if self.softplus is not None:
            scale = self.softplus(scale)
        yield Block("y", self.gaussian(scale.clamp(min=SMALLEST_SCALE)), context={"mean": mean})


def toys() -> dict[str, Prior]:
    """Small ones with seeded weights and tables, by name."""
    return {
        "hyperprior-leaky": _toy("leaky"),
        "hyperprior-relu": _toy("relu", smooth=True),
        "hyperprior-gdn": _toy("gdn", smooth=True),
    }


def _toy(activation: str, smooth: bool = False) -> Hyperprior:
    name = f"hyperprior-{activation}"
    prior = Hyperprior(
        latent_channels=10,
        tables=seeded_tables(7, name),
        medians=uniform((7,), f"{name}/medians"),
        activation=activation,
        smooth=smooth,
    )
    fill(prior, name, gain=0.4 if activation == "gdn" else 2)  # inverse GDN squares, nearly
    for layer in prior.modules():
        if isinstance(layer, GDN):
            layer.gamma.data.abs_()
    return prior

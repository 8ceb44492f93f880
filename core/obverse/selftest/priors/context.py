"""Hyperpriors with a causal context, cell by cell (mbt2018, arXiv:1809.02736; cheng2020, arXiv:2001.01568).

Shape notation:
    B batch, M channels of y, N channels of z, h and w sides of y's grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from obverse.interfaces import Block, Blocks, Condition, Layout, Prior
from obverse.nn.masked import MaskedConv2d, causal_taps
from obverse.selftest import seeded
from obverse.selftest.priors.factorized import seeded_tables, stored
from obverse.selftest.priors.hyperprior import SMALLEST_SCALE

KERNEL = 5
_STRIDE = 4  # cells of y per cell of z


def deconvolution(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """[B, C, h, w] -> [B, N, 2h, 2w]."""
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)


def subpixel(inputs: int, outputs: int) -> nn.Sequential:
    """[B, C, h, w] -> [B, N, 2h, 2w]."""
    return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 3, padding=1), nn.PixelShuffle(2))


def mbt2018(hyper_channels: int, latent_channels: int) -> nn.Sequential:
    """Hyper-synthesis [B, N, h/4, w/4] -> [B, 2M, h, w] by transposed convolutions."""
    n, m = hyper_channels, latent_channels
    return nn.Sequential(
        deconvolution(n, m), nn.LeakyReLU(),
        deconvolution(m, m * 3 // 2), nn.LeakyReLU(),
        nn.Conv2d(m * 3 // 2, 2 * m, 3, padding=1),
    )  # fmt: skip


def cheng2020(hyper_channels: int, latent_channels: int) -> nn.Sequential:
    """Hyper-synthesis [B, N, h/4, w/4] -> [B, 2M, h, w] by sub-pixel convolutions."""
    n, m = hyper_channels, latent_channels
    return nn.Sequential(
        nn.Conv2d(n, n, 3, padding=1), nn.LeakyReLU(),
        subpixel(n, n), nn.LeakyReLU(),
        nn.Conv2d(n, n * 3 // 2, 3, padding=1), nn.LeakyReLU(),
        subpixel(n * 3 // 2, n * 3 // 2), nn.LeakyReLU(),
        nn.Conv2d(n * 3 // 2, 2 * m, 3, padding=1),
    )  # fmt: skip


class ContextPrior(Prior, nn.Module):
    """z, then one block for every cell of y in raster order, all its channels together.

    y_hat = symbol + mean, and a mean depends on y_hat above and to the left; so there is no parallel pass.

    Blocks of y have positions in the flattened array [M * h * w]: M of them, h * w apart. Means are [B, M].

    What is computed cell by cell is rounded cell by cell in exact arithmetic, so that it does not matter how many cells
    are computed at once: `MaskedConv2d` is, and the 1x1 convolutions are `nn.Linear` over the channels of a cell. Only
    the hyper-synthesis, which knows all of its input, looks at the picture as a whole.

    Args:
        tables: frequencies of z, [N, S] int32, as for `factorized.Factorized`.
        medians: [N] floating point, what z is moved by.
        latent_channels: M.
        hyper_synthesis: [B, N, h/4, w/4] -> [B, 2M, h, w].
    """

    exact: ClassVar[bool] = True
    tables: Tensor
    medians: Tensor

    def __init__(self, *, tables: Tensor, medians: Tensor, latent_channels: int, hyper_synthesis: nn.Module) -> None:
        super().__init__()
        self.alphabets: Mapping[str, int | None] = {"y": None, "z": None}
        m = latent_channels
        self.latent_channels = m
        self.register_buffer("tables", tables)
        self.register_buffer("medians", medians[:, None, None])
        self.hyper_synthesis = hyper_synthesis
        self.context_prediction = MaskedConv2d(m, 2 * m, causal_taps(KERNEL))
        self.entropy_parameters = nn.Sequential(
            nn.Linear(4 * m, m * 10 // 3), nn.LeakyReLU(),
            nn.Linear(m * 10 // 3, m * 8 // 3), nn.LeakyReLU(),
            nn.Linear(m * 8 // 3, 2 * m),
        )  # fmt: skip

    def hyper_parameters(self, z: Tensor, height: int, width: int) -> Tensor:
        """What z [B, N, ...] int64 tells about y: [B, 2M, h, w]."""
        return self.hyper_synthesis(z + self.medians)[:, :, :height, :width]  # type: ignore[no-any-return]

    def parameters_of(self, hyper: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and means [..., M] of cells, from both [..., 2M]."""
        scale, mean = self.entropy_parameters(torch.cat([hyper, context], -1)).chunk(2, -1)
        return scale.clamp(min=SMALLEST_SCALE), mean

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        height, width = layout.height, layout.width
        z = yield Block("z", stored(self.tables, Layout(layout.batch, -(-height // _STRIDE), -(-width // _STRIDE))))
        hyper = self.hyper_parameters(z, height, width)
        margin = KERNEL // 2
        y_hat = hyper.new_zeros(layout.batch, self.latent_channels, height + 2 * margin, width + 2 * margin)
        first_cell = torch.arange(self.latent_channels, device=hyper.device) * (height * width)
        for cell in range(height * width):
            row, column = divmod(cell, width)
            crop = y_hat[:, :, row : row + KERNEL, column : column + KERNEL]
            context = self.context_prediction(crop, padded=False)[:, :, 0, 0]
            scale, mean = self.parameters_of(hyper[:, :, row, column], context)
            symbols = yield Block("y", self.gaussian(scale), first_cell + cell, {"mean": mean})
            y_hat[:, :, row + margin, column + margin] = symbols + mean


def toys() -> dict[str, Prior]:
    """Small float priors with seeded weights and tables, by case."""
    return {
        f"context-{synthesis.__name__}": _toy(f"context-{synthesis.__name__}", synthesis(6, 9))
        for synthesis in (mbt2018, cheng2020)
    }


def _toy(name: str, hyper_synthesis: nn.Module) -> ContextPrior:
    prior = ContextPrior(
        tables=seeded_tables(6, name),
        medians=seeded.uniform((6,), f"{name}/medians"),
        latent_channels=9,
        hyper_synthesis=hyper_synthesis,
    )
    seeded.fill(prior, name, gain=0.6)
    raise_scales(prior.entropy_parameters)
    return prior


@torch.no_grad()
def raise_scales(entropy_parameters: nn.Sequential) -> None:
    """Move seeded scales to about one, so that few of them are below the smallest."""
    last = entropy_parameters[-1]
    assert isinstance(last, nn.Linear)
    last.bias[: last.out_features // 2] += 1

"""Four kinds of codecs in miniature: quantizers and priors of 4x4 latents, untrained and exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from obverse.distributions import Categorical, IntegerGaussian
from obverse.interfaces import Block, Blocks, Coded, Condition, Latents, Layout, Prior, Quantizer

SIDE = 4
CODES = 8


def table(rows: int) -> Tensor:
    """Integer logits [rows, CODES]."""
    return torch.randint(-24, 24, (rows, CODES), generator=torch.Generator().manual_seed(rows)).int()


def nearest(values: Tensor) -> Tensor:
    """Index of the nearest of CODES levels from -2 to 2."""
    return ((values + 2) / 4 * (CODES - 1)).round().clamp(0, CODES - 1).long()


def level(tokens: Tensor) -> Tensor:
    return tokens.float() / (CODES - 1) * 4 - 2


class NextTokenQuantizer(Quantizer):
    """Each cell for itself."""

    context_free: ClassVar[bool] = True

    def __init__(self) -> None:
        self.channels, self.alphabets = {"x": 1}, {"tokens": CODES}

    def symbols(self, latents: Latents) -> dict[str, Tensor]:
        return {"tokens": nearest(latents["x"]).flatten(1)}

    def quantize(self, latents: Latents, block: Block) -> Tensor:
        return self.symbols(latents)["tokens"][:, block.positions]

    def dequantize(self, coded: list[Coded], layout: Layout) -> Latents:
        tokens = torch.zeros(layout.batch, layout.height * layout.width, dtype=torch.int64)
        for part in coded:
            tokens[:, part.positions] = part.symbols
        return {"x": level(tokens).view(layout.batch, 1, layout.height, layout.width)}


class NextTokenPrior(Prior):
    """The token before decides."""

    exact: ClassVar[bool] = True

    def __init__(self, window: int | None = None) -> None:
        self.alphabets, self.window = {"tokens": CODES}, window
        self.table = table(CODES + 1)

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        before = torch.full((layout.batch, 1), CODES)
        for t in range(layout.height * layout.width):
            before = yield Block("tokens", Categorical(self.table[before]), torch.tensor([t]))

    def teacher_forced(self, symbols: Mapping[str, Tensor], layout: Layout, condition: Condition) -> Blocks:
        before = F.pad(symbols["tokens"], (1, 0), value=CODES)
        for t in range(layout.height * layout.width):
            yield Block("tokens", Categorical(self.table[before[:, t : t + 1]]), torch.tensor([t]))


def scales(side: int = SIDE) -> Iterator[tuple[int, Tensor]]:
    """Sides 1, 2, 4 and the positions of their cells."""
    size, start = 1, 0
    while size <= side:
        yield size, torch.arange(start, start + size * size)
        size, start = size * 2, start + size * size


class NextScaleQuantizer(Quantizer):
    """Each scale codes what the coarser ones left over."""

    context_free: ClassVar[bool] = True

    def __init__(self) -> None:
        self.channels, self.alphabets = {"x": 1}, {"tokens": CODES}

    def symbols(self, latents: Latents) -> dict[str, Tensor]:
        rest, found = latents["x"], []
        for size, _ in scales():
            tokens = nearest(F.adaptive_avg_pool2d(rest, size))
            found.append(tokens.flatten(1))
            rest = rest - self._raised(tokens)
        return {"tokens": torch.cat(found, dim=1)}

    def quantize(self, latents: Latents, block: Block) -> Tensor:
        return self.symbols(latents)["tokens"][:, block.positions]

    def dequantize(self, coded: list[Coded], layout: Layout) -> Latents:
        total = torch.zeros(layout.batch, 1, SIDE, SIDE)
        for part in coded:
            size = int(part.symbols.shape[1] ** 0.5)
            total = total + self._raised(part.symbols.view(-1, 1, size, size))
        return {"x": total}

    def _raised(self, tokens: Tensor) -> Tensor:
        return F.interpolate(level(tokens), size=(SIDE, SIDE))


class NextScalePrior(Prior):
    """The sum of the scale before decides; a whole scale is one block."""

    exact: ClassVar[bool] = True

    def __init__(self) -> None:
        self.alphabets = {"tokens": CODES}
        self.table = table(CODES)

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        total = torch.zeros(layout.batch, dtype=torch.int64)
        for size, positions in scales():
            logits = self.table[total % CODES][:, None].expand(-1, size * size, -1)
            tokens = yield Block("tokens", Categorical(logits), positions)
            total = total + tokens.sum(1)


class CentredQuantizer(Quantizer):
    """round(latent - mean) at the block's positions."""

    context_free: ClassVar[bool] = False

    def __init__(self, names: tuple[str, ...]) -> None:
        self.channels, self.alphabets = dict.fromkeys(names, 1), dict.fromkeys(names)

    def quantize(self, latents: Latents, block: Block) -> Tensor:
        values = latents[block.name].flatten(1)
        if block.positions is not None:
            values = values[:, block.positions]
        mean = block.context.get("mean", torch.zeros(()))
        return (values - mean).round().long().view(block.distribution.shape)

    def dequantize(self, coded: list[Coded], layout: Layout) -> Latents:
        found: dict[str, Tensor] = {}
        for part in coded:
            values = (part.symbols + part.context.get("mean", torch.zeros(()))).float()
            if part.positions is None:
                found[part.name] = values
            else:
                array = found.setdefault(part.name, torch.zeros(layout.batch, SIDE * SIDE))
                array[:, part.positions] = values
        return found


class CheckerboardPrior(Prior):
    """z, then one colour of the squares of y with means from z, then the other with its neighbours' means too."""

    exact: ClassVar[bool] = True

    def __init__(self) -> None:
        self.alphabets = {"z": None, "y": None}

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        z = yield Block("z", IntegerGaussian(torch.full((layout.batch, SIDE // 2, SIDE // 2), 30)))
        mean = F.interpolate(z[:, None].double(), scale_factor=2.0)  # [B, 1, 4, 4]
        index = IntegerGaussian.index(mean.abs() / 2 + 0.3).flatten(1)
        row, column = torch.arange(SIDE)[:, None], torch.arange(SIDE)
        dark = ((row + column) % 2 == 0).flatten()
        y = torch.zeros(layout.batch, SIDE * SIDE, dtype=torch.float64)
        for colour in (dark, ~dark):
            places = colour.nonzero()[:, 0]
            context = mean.flatten(1)[:, places]
            symbols = yield Block("y", IntegerGaussian(index[:, places]), places, {"mean": context})
            y[:, places] = symbols + context
            around = F.avg_pool2d(F.pad(y.view(-1, 1, SIDE, SIDE), (1, 1, 1, 1)), 3, stride=1)
            mean = mean / 2 + around


class TopDownPrior(Prior):
    """Levels of 1, 2 and 4 cells a side; what is known so far is the mean of the next."""

    exact: ClassVar[bool] = True

    def __init__(self) -> None:
        self.alphabets = {f"level{size}": None for size, _ in scales()}

    def blocks(self, layout: Layout, condition: Condition) -> Blocks:
        known = torch.zeros(layout.batch, 1, 1, 1, dtype=torch.float64)
        for step, (size, positions) in enumerate(scales()):
            mean = F.interpolate(known, size=(size, size)).flatten(1)
            scale = IntegerGaussian(torch.full(mean.shape, 35 - 8 * step))
            symbols = yield Block(f"level{size}", scale, positions - positions[0], {"mean": mean})
            known = (symbols + mean).view(-1, 1, size, size)


class TopDownQuantizer(CentredQuantizer):
    """The posterior of a level looks at what the levels before have not explained."""

    def __init__(self) -> None:
        super().__init__(tuple(f"level{size}" for size, _ in scales()))

    def quantize(self, latents: Latents, block: Block) -> Tensor:
        size = int(block.name.removeprefix("level"))
        pooled = F.adaptive_avg_pool2d(latents["x"] * 5, size).flatten(1)
        return (pooled - block.context["mean"]).round().long()

    def dequantize(self, coded: list[Coded], layout: Layout) -> Latents:
        last = coded[-1]
        return {"x": (last.symbols + last.context["mean"]).float().view(-1, 1, SIDE, SIDE) / 5}


@dataclass(frozen=True)
class Miniature:
    """A quantizer, a prior and latents to code."""

    quantizer: Quantizer
    prior: Prior
    array: str

    def latents(self, batch: int, seed: int = 0) -> dict[str, Tensor]:
        x = torch.randn(batch, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        return {"x": x, "y": x * 5, "z": F.avg_pool2d(x * 5, 2)}


MINIATURES = {
    "next-token": Miniature(NextTokenQuantizer(), NextTokenPrior(), "x"),
    "next-scale": Miniature(NextScaleQuantizer(), NextScalePrior(), "x"),
    "hyperprior": Miniature(CentredQuantizer(("z", "y")), CheckerboardPrior(), "y"),
    "top-down": Miniature(TopDownQuantizer(), TopDownPrior(), "x"),
}

"""QARV (arXiv:2302.08899): one network for all rates, told of the rate by adaptive norms.

Shape notation as in `obverse_lossyvae.top_down`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from obverse.interfaces import Condition, Encoder, Latents
from obverse.nn.convnext import ConvNeXtBlock
from obverse_lossyvae.bottom_up import BottomUp
from obverse_lossyvae.ladder import IMAGE_RATE, LadderQuantizer, ladder, to_picture
from obverse_lossyvae.layers import GaussianParameters, upward_reach
from obverse_lossyvae.operating_points import LambdaEmbedding
from obverse_lossyvae.top_down import Entry, LatentBlock, TopDownPrior, per_level


class AdaptiveBlock(LatentBlock):
    """A ConvNeXt block sees the feature, a 1x1 convolution predicts the latents.

    Args:
        width, latents: W and Z.
        kernel, ratio, embedding: as for `ConvNeXtBlock`.
        last: no block follows.
    """

    def __init__(
        self, width: int, latents: int, kernel: int, ratio: float, embedding: int = 0, last: bool = False
    ) -> None:
        super().__init__(None if last else adaptive_entry(width, latents, kernel, ratio, embedding))
        self.front = ConvNeXtBlock(width, kernel, ratio, embedding)
        self.head = nn.Conv2d(width, 2 * latents, 1)
        self.parameters_of = GaussianParameters()

    def view(self, feature: Tensor, embedding: Tensor | None) -> dict[str, Tensor]:
        feature = self.front(feature, embedding)
        mean, scale = self.parameters_of(self.head(feature))
        return {"feature": feature, "mean": mean, "scale": scale}


def adaptive_entry(width: int, latents: int, kernel: int, ratio: float, embedding: int = 0) -> Entry:
    """Where latents of such a block enter."""
    return Entry(nn.Conv2d(latents, width, 1), ConvNeXtBlock(width, kernel, ratio, embedding))


class QARVPrior(TopDownPrior):
    """The top-down path of QARV.

    Args:
        widths, latents, blocks, kernels, ratios: W, Z, latent blocks, sides of convolutions and ratios of perceptrons
            on each grid, from the coarsest.
        lambdas: of the operating points, from the smallest files.
        embedding: E.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        latents: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
        ratios: Sequence[float],
        lambdas: Sequence[float],
        embedding: int,
    ) -> None:
        per_level(widths=widths, latents=latents, blocks=blocks, kernels=kernels, ratios=ratios)

        def latent_block(level: int, last: bool) -> AdaptiveBlock:
            return AdaptiveBlock(widths[level], latents[level], kernels[level], ratios[level], embedding, last)

        layers = ladder(latent_block, widths=widths, blocks=blocks, kernels=kernels, ratios=ratios, embedding=embedding)
        super().__init__(layers, width=widths[0], multiple=2 ** (len(widths) - 1))
        self.lambda_embedding = LambdaEmbedding(lambdas, embedding)
        self.qualities = len(lambdas)

    def embedding(self, condition: Condition) -> Tensor:
        return self.lambda_embedding(condition.quality)  # type: ignore[no-any-return]


class QARVQuantizer(LadderQuantizer):
    """The posteriors of QARV; arguments as for `LadderQuantizer`."""

    decoded: ClassVar[slice] = slice(-1, None)


class QARVEncoder(Encoder, nn.Module):
    """The bottom-up path of QARV, and what follows the last latents.

    Args:
        widths, blocks, kernels, rates: of the bottom-up path, as for `BottomUp`; its finest grid has no latents.
        last_width, last_latents, last_kernel, last_ratio: W, Z, side of convolutions and ratio of perceptrons of the
            last latent block.
        last_block: number of the last latent block.
        fine_width, fine_blocks, fine_kernel, fine_ratio: of the blocks on the grid that is finer than all latents.
        lambdas: of the operating points, from the smallest files.
        embedding: E.
        shift, scale: the network sees (image + shift) * scale.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        kernels: Sequence[int],
        rates: Sequence[int] = (4, 2, 2, 2, 2),
        last_width: int,
        last_latents: int,
        last_kernel: int,
        last_ratio: float,
        last_block: int,
        fine_width: int,
        fine_blocks: int,
        fine_kernel: int,
        fine_ratio: float,
        lambdas: Sequence[float],
        embedding: int,
        shift: float = -0.4546259594901961,
        scale: float = 3.67572653978347,
    ) -> None:
        super().__init__()
        self.analysis = BottomUp(widths=widths, blocks=blocks, kernels=kernels, rates=rates, embedding=embedding)
        last = last_width, last_kernel, last_ratio, embedding
        self.entry = adaptive_entry(last_width, last_latents, *last[1:])
        self.synthesis = nn.ModuleList(
            to_picture(
                ConvNeXtBlock(*last),
                last_width,
                fine_width=fine_width,
                blocks=fine_blocks,
                kernel=fine_kernel,
                ratio=fine_ratio,
                embedding=embedding,
            )
        )
        self.lambda_embedding = LambdaEmbedding(lambdas, embedding)
        self.qualities = len(lambdas)
        self.shift, self.scale, self.last = shift, scale, f"z{last_block}"
        strides = self.analysis.strides
        self.stride, self.multiple = 2 * IMAGE_RATE, strides[-1]
        grids = list(zip(strides, widths, strict=True))[1:]
        self.channels = {f"s{stride}": width for stride, width in reversed(grids)}
        above = upward_reach([self.entry, *self.synthesis], self.stride)
        self.margin = -(-max(self.analysis.margin, above) // self.multiple)

    def encode(self, images: Tensor, condition: Condition) -> Latents:
        embedding = self.lambda_embedding(condition.quality)
        features = self.analysis((images + self.shift) * self.scale, embedding)
        return {name: features[int(name.removeprefix("s"))] for name in self.channels}

    def decode(self, latents: Latents, condition: Condition) -> Tensor:
        embedding = self.lambda_embedding(condition.quality)
        feature: Tensor = self.entry(latents[f"{self.last}.feature"], latents[self.last], embedding)
        for layer in self.synthesis:
            feature = layer(feature, embedding) if isinstance(layer, ConvNeXtBlock) else layer(feature)
        return feature / 2 + 0.5

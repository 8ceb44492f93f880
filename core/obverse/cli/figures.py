"""Sizes of a codec, from its configuration alone: its parts are built, and run on a picture, without data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from obverse.config import CodecConfig
from obverse.interfaces import Condition
from obverse.pipeline import Pipeline, build

SIDE = 256
"""Side of the picture in pixels, for encoders that take any."""


@dataclass(frozen=True)
class Figures:
    """Sizes of a codec.

    Attributes:
        side: of the picture in pixels: `SIDE` or the next that the encoder takes, or its only one.
        tokens: of that picture; None where symbols are not known before the prior (integers of a hyperprior).
        codebook: number of tokens there are, the largest if there are several arrays; None for unbounded integers.
        parameters: of all parts, tables and codebooks that are buffers not counted.
    """

    side: int
    tokens: int | None
    codebook: int | None
    parameters: int


def figures(config: CodecConfig) -> Figures:
    """Sizes of a codec; its weights need not be there.

    Raises:
        ObverseError: its parts cannot be made.
    """
    with torch.device("meta"), torch.inference_mode():
        pipeline = build(config)
        multiple = pipeline.encoder.multiple
        side = pipeline.encoder.tile or -(-SIDE // multiple) * multiple
        tokens = _tokens(pipeline, side)
    sizes = list(pipeline.quantizer.alphabets.values())
    codebook = None if None in sizes else max((size for size in sizes if size is not None), default=None)
    parameters = sum(p.numel() for module in pipeline.modules.values() for p in module.parameters())
    return Figures(side, tokens, codebook, parameters)


def _tokens(pipeline: Pipeline, side: int) -> int | None:
    if not pipeline.quantizer.context_free:
        return None
    for module in pipeline.modules.values():
        module.eval()
    try:
        latents = pipeline.encoder.encode(torch.zeros(1, 3, side, side), Condition())
        return sum(array.shape[1] for array in pipeline.quantizer.symbols(latents).values())
    except RuntimeError:  # parts that do not run without data
        return None

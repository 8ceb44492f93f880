"""How much of a codebook is used: usage and perplexity, from counts of tokens.

Counts are arrays [K] int64 by array name, one number for each code. Those of several pictures, or of several processes,
are added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from obverse.errors import ConfigError
from obverse.evaluation.interfaces import TokenMetric
from obverse.pixels import as_pixels

if TYPE_CHECKING:
    from obverse.codec import Codec


def count_tokens(tokens: np.ndarray, size: int) -> np.ndarray:
    """How often each code occurs.

    >>> count_tokens(np.array([[0, 2, 2]]), 4)
    array([1, 0, 2, 0])

    Args:
        tokens: any shape, integers in [0, size).
        size: codes in the codebook, K.

    Returns:
        [K] int64.

    Raises:
        ConfigError: a token is none of the codebook's.
    """
    flat = np.asarray(tokens).reshape(-1)
    if flat.size and not 0 <= flat.min() <= flat.max() < size:
        raise ConfigError(f"tokens of a codebook of {size} are 0 to {size - 1}, got {flat.min()} to {flat.max()}")
    return np.bincount(flat.astype(np.int64), minlength=size).astype(np.int64)


def codebook_usage(counts: np.ndarray) -> float:
    """Share of codes that occur at all, 0 to 1; rises with the number of pictures.

    >>> codebook_usage(np.array([1, 0, 2, 0]))
    0.5
    """
    return float(np.count_nonzero(counts) / len(counts))


def perplexity(counts: np.ndarray) -> float | None:
    """2 to the entropy in bits of the codes' frequencies: 1 for one code, K for all equally often; None without any.

    >>> perplexity(np.array([5, 5, 0, 0]))
    2.0
    """
    total = counts.sum()
    if not total:
        return None
    p = counts[counts > 0] / total
    return float(2 ** -(p * np.log2(p)).sum())


class _Counted(TokenMetric):
    """Both metrics need nothing but the counts."""

    direction = "higher"

    @property
    def version(self) -> str:
        return "obverse 1"


class CodebookUsage(_Counted):
    """`codebook_usage` of a set of pictures."""

    name = "codebook-usage"
    range = (0, 1)

    def compute(self, counts: np.ndarray) -> float:
        """Of counts [K]."""
        return codebook_usage(counts)


class CodebookPerplexity(_Counted):
    """`perplexity` of the tokens of a set of pictures."""

    name = "codebook-perplexity"
    range = (1, None)

    def compute(self, counts: np.ndarray) -> float | None:
        """Of counts [K]."""
        return perplexity(counts)


def picture_counts(codec: Codec, image: object, *, quality: int | None = None) -> dict[str, np.ndarray]:
    """How often each code occurs among a picture's tokens, those of the padding included.

    Args:
        codec: with a vector quantizer.
        image: anything that the codec takes.
        quality: operating point, 1 to `codec.qualities`.

    Returns:
        [K] int64 for each array of tokens.

    Raises:
        ConfigError: the codec has no codebook.
    """
    quantizer = codec.pipeline.quantizer
    sizes = {name: size for name, size in quantizer.alphabets.items() if size is not None}
    if not quantizer.context_free or len(sizes) < len(quantizer.alphabets):
        raise ConfigError(f"codec {codec.name!r} has no codebook: its symbols are not tokens of a vector quantizer")
    with torch.inference_mode():
        tokens = quantizer.symbols(codec.canvas.analyse([as_pixels(image)], codec.condition(quality)))
    return {name: count_tokens(tokens[name].cpu().numpy(), size) for name, size in sizes.items()}

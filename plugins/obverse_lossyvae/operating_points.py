"""Vectors that tell a network of its operating point, computed with decimals so that they are the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from functools import lru_cache

import torch
from torch import Tensor, nn

from obverse.errors import ConfigError

PERIOD = 64
LARGEST_LAMBDA = 8192


class LambdaEmbedding(nn.Module):
    """Cosines and sines of log(lambda), then a perceptron (QARV, arXiv:2302.08899).

    Args:
        lambdas: weights of the squared error, one per operating point, rising.
        length: E, even.
    """

    waves: Tensor

    def __init__(self, lambdas: Sequence[float], length: int) -> None:
        super().__init__()
        points = tuple(float(value) for value in lambdas)
        if not points or points[0] <= 0 or list(points) != sorted(set(points)):
            raise ConfigError(f"lambdas {list(lambdas)} are not positive and rising")
        if length < 4 or length % 2:
            raise ConfigError(f"an embedding of {length} numbers is no pairs of cosines and sines; take an even length")
        self.register_buffer("waves", waves(points, length), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(length, length), nn.GELU(), nn.Linear(length, length))

    def forward(self, quality: int) -> Tensor:
        """[1, E] of an operating point from 0."""
        return self.mlp(self.waves[quality : quality + 1])  # type: ignore[no-any-return]


@lru_cache(maxsize=4)
def waves(lambdas: tuple[float, ...], length: int) -> Tensor:
    """Cosines, then sines, of 64 log(lambda) / log(8192) times frequencies from 1 to 1 / 64, [Q, length] float32."""
    count = length // 2
    rows = []
    with localcontext(Context(prec=60)):
        log_period = Decimal(PERIOD).ln()
        frequencies = [(-log_period * i / (count - 1)).exp() for i in range(count)]
        for value in lambdas:
            turn = Decimal(value).ln() * PERIOD / Decimal(LARGEST_LAMBDA).ln()
            pairs = [cosine_and_sine(turn * frequency) for frequency in frequencies]
            rows.append([float(cosine) for cosine, _ in pairs] + [float(sine) for _, sine in pairs])
    return torch.tensor(rows, dtype=torch.float32)


def cosine_and_sine(angle: Decimal) -> tuple[Decimal, Decimal]:
    """By their series, for angles of at most 64 and decimals of at least 60 digits: 30 digits are right."""
    sums, term, n = [Decimal(0), Decimal(0)], Decimal(1), 0
    while n < 2 * abs(angle) or abs(term) > Decimal("1e-40"):
        sums[n % 2] += -term if n % 4 >= 2 else term
        n += 1
        term = term * angle / n
    return sums[0], sums[1]

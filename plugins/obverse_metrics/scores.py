"""Scores of a set of pictures on Inception features: Inception score, precision and recall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from obverse.errors import ConfigError
from obverse.evaluation.interfaces import Direction
from obverse_metrics.inception import InceptionMetric, pooled

_CHUNK = 4096


class InceptionScore(InceptionMetric):
    """Inception score (Salimans et al. 2016, arXiv:1606.03498): pictures with one clear class each, of many classes.

    Args:
        splits: parts of the set, in order of the pictures, whose scores are averaged.
        weights, device: as for all networks.
    """

    name: ClassVar[str] = "is"
    direction: ClassVar[Direction] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (1, 1008)
    needs_reference: ClassVar[bool] = False
    arrays: ClassVar[Sequence[str]] = ("logits",)

    def __init__(self, *, splits: int | str = 10, weights: str | None = None, device: str = "cpu") -> None:
        super().__init__(weights=weights, device=device)
        self.splits = _positive(splits, "is.splits")

    @property
    def version(self) -> str:
        return f"{super().version}, {self.splits} splits"

    def compute(
        self, reference: Sequence[Mapping[str, np.ndarray]], decoded: Sequence[Mapping[str, np.ndarray]]
    ) -> float | None:
        """1 to the number of classes; None for fewer pictures than splits."""
        return inception_score(pooled(decoded, "logits"), self.splits) if len(decoded) >= self.splits else None


class _Manifolds(InceptionMetric):
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991).

    Args:
        k: the neighbour whose distance is the radius of a picture's ball.
        weights, device: as for all networks.
    """

    direction: ClassVar[Direction] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (0, 1)

    def __init__(self, *, k: int | str = 3, weights: str | None = None, device: str = "cpu") -> None:
        super().__init__(weights=weights, device=device)
        self.k = _positive(k, f"{self.name}.k")

    @property
    def version(self) -> str:
        return f"{super().version}, k = {self.k}"

    def share(
        self, balls: Sequence[Mapping[str, np.ndarray]], points: Sequence[Mapping[str, np.ndarray]]
    ) -> float | None:
        """Share of the points' pictures that lie among those of the balls; None where the balls are too few."""
        if len(balls) <= self.k or not points:
            return None
        return covered(pooled(balls, "pool"), pooled(points, "pool"), self.k)


class Precision(_Manifolds):
    """Share of decoded pictures that lie within the originals' balls."""

    name: ClassVar[str] = "precision"

    def compute(
        self, reference: Sequence[Mapping[str, np.ndarray]], decoded: Sequence[Mapping[str, np.ndarray]]
    ) -> float | None:
        """In [0, 1]; None for no more than k originals."""
        return self.share(reference, decoded)


class Recall(_Manifolds):
    """Share of originals that lie within the decoded pictures' balls."""

    name: ClassVar[str] = "recall"

    def compute(
        self, reference: Sequence[Mapping[str, np.ndarray]], decoded: Sequence[Mapping[str, np.ndarray]]
    ) -> float | None:
        """In [0, 1]; None for no more than k decoded pictures."""
        return self.share(decoded, reference)


def inception_score(logits: np.ndarray, splits: int) -> float:
    """Mean over splits of exp of the mean KL divergence between a picture's classes and those of its split.

    >>> round(inception_score(1e3 * np.eye(5), 1), 6)
    5.0

    Args:
        logits: [N, classes] float64.
        splits: 1 to N.
    """
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    scores = []
    for part in np.array_split(log_p, splits):
        p = np.exp(part)
        marginal = p.mean(axis=0)
        entropy = -(marginal[marginal > 0] * np.log(marginal[marginal > 0])).sum()
        scores.append(np.exp((p * part).sum(axis=1).mean() + entropy))
    return float(np.mean(scores))


def covered(centres: np.ndarray, points: np.ndarray, k: int) -> float:
    """Share of points that lie in a ball around any centre that reaches the centre's k-th nearest other centre.

    >>> covered(np.array([[0.0], [1.0], [10.0]]), np.array([[1.5], [30.0]]), k=1)
    0.5

    Args:
        centres: [N, D] float64, more than k.
        points: [M, D] float64.
        k: from 1.
    """
    # The centre itself is the nearest of all, at place 0.
    radii = np.concatenate([np.partition(part, k, axis=1)[:, k] for part in _squared_distances(centres, centres)])
    inside = np.concatenate([(part <= radii).any(axis=1) for part in _squared_distances(points, centres)])
    return float(inside.mean())


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """[n, M] for every chunk of n rows of a [N, D], to all rows of b [M, D]."""
    squares = np.square(b).sum(axis=1)
    for first in range(0, len(a), _CHUNK):
        part = a[first : first + _CHUNK]
        yield np.square(part).sum(axis=1)[:, None] + squares - 2 * part @ b.T


def _positive(value: int | str, option: str) -> int:
    number = int(value) if str(value).isdecimal() else 0
    if number < 1:
        raise ConfigError(f"{option} is a whole number from 1, got {value!r}")
    return number

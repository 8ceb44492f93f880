"""Fréchet distances between sets of pictures: FID (Heusel et al. 2017, arXiv:1706.08500) and its relatives.

A set is taken for a Gaussian in feature space. With covariances A^T A and B^T B, the trace of the root of their product
is the sum of the singular values of A B^T, which needs no matrix root and holds for sets of few pictures too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from obverse.errors import ConfigError
from obverse.evaluation.interfaces import Direction
from obverse_metrics.inception import InceptionMetric, extract, pooled

_BATCH = 8


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] of a set, and a root [r, D] of its covariance: covariance = root^T root."""

    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Gaussian:
        """Of at least two features vectors [N, D] float64; covariance with N - 1."""
        mean = rows.mean(axis=0)
        return cls(mean, np.linalg.qr(rows - mean, mode="r") / np.sqrt(len(rows) - 1))

    @classmethod
    def from_covariance(cls, mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
        """Of a mean [D] and a covariance [D, D]; what rounding made negative counts as 0."""
        values, vectors = np.linalg.eigh(covariance)
        return cls(mean, np.sqrt(values.clip(min=0))[:, None] * vectors.T)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mean difference|^2 + tr(covariances) - 2 tr((product of covariances)^(1/2)).

    >>> rows = np.array([[0.0], [2.0]])
    >>> round(frechet_distance(Gaussian.of(rows), Gaussian.of(3 * rows + 1)), 6)  # (4 - 1)^2 + (3 - 1)^2 * 2
    17.0
    """
    spread = np.square(a.root).sum() + np.square(b.root).sum()
    shared = np.linalg.svd(a.root @ b.root.T, compute_uv=False).sum()
    return max(0.0, float(np.square(a.mean - b.mean).sum() + spread - 2 * shared))


class ReconstructionFID(InceptionMetric):
    """FID of decoded pictures against the same originals, as tokenizers report it.

    Attributes:
        stored: names of mean and covariance in files of statistics.
    """

    name: ClassVar[str] = "rfid"
    direction: ClassVar[Direction] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (0, None)
    stored: ClassVar[tuple[str, str]] = ("mu", "sigma")

    def compute(
        self, reference: Sequence[Mapping[str, np.ndarray]], decoded: Sequence[Mapping[str, np.ndarray]]
    ) -> float | None:
        """From 0; None for fewer than two rows of features in a set."""
        target = self.target(reference)
        rows = self._rows(decoded)
        return None if target is None or len(rows) < 2 else frechet_distance(target, Gaussian.of(rows))

    def target(self, reference: Sequence[Mapping[str, np.ndarray]]) -> Gaussian | None:
        """What the decoded pictures are compared with; None where it is not defined."""
        rows = self._rows(reference)
        return None if len(rows) < 2 else Gaussian.of(rows)

    def _rows(self, features: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        [name] = self.arrays
        return pooled(features, name) if features else np.empty((0, 0))


class FID(ReconstructionFID):
    """Fréchet Inception distance to the originals, or to stored statistics of a data set.

    Args:
        statistics: .npz file with mean and covariance (`mu` and `sigma`; sFID: `mu_s` and `sigma_s`) of the set to
            compare with, as pytorch-fid and guided-diffusion's evaluator write them; None for the originals.
        weights, device: as for all networks.
    """

    name: ClassVar[str] = "fid"

    def __init__(self, *, statistics: str | None = None, weights: str | None = None, device: str = "cpu") -> None:
        super().__init__(weights=weights, device=device)
        self._statistics = Path(statistics).expanduser() if statistics else None

    def missing(self) -> str | None:
        if self._statistics and not self._statistics.is_file():
            return f"no file {str(self._statistics)!r}; check {self.name}.statistics"
        return super().missing()

    def target(self, reference: Sequence[Mapping[str, np.ndarray]]) -> Gaussian | None:
        """Of the file of statistics, where one is given.

        Raises:
            ConfigError: it holds no such statistics.
        """
        return self._stored(self._statistics) if self._statistics else super().target(reference)

    def _stored(self, file: Path) -> Gaussian:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                mean, covariance = (arrays[name].astype(np.float64) for name in self.stored)
        except (OSError, ValueError, KeyError) as error:
            names = " and ".join(self.stored)
            raise ConfigError(f"{self.name}.statistics: {str(file)!r} is no .npz file with {names}") from error
        if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
            shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
            raise ConfigError(f"{self.name}.statistics: {str(file)!r} holds {shapes}, expected [D] and [D, D]")
        return Gaussian.from_covariance(mean, covariance)


class SpatialFID(FID):
    """sFID (Nash et al. 2021, arXiv:2103.03841): FID on features that know where in the picture they are."""

    name: ClassVar[str] = "sfid"
    arrays: ClassVar[Sequence[str]] = ("spatial",)
    stored: ClassVar[tuple[str, str]] = ("mu_s", "sigma_s")


class PatchFID(ReconstructionFID):
    """FID/256 of HiFiC (arXiv:2006.09965, Appendix A.5): between patches of the originals and of the decoded pictures.

    A picture gives its whole patches from the top left corner on, and those of the grid that lies half a patch further
    right and down, of which there is one less in each direction.

    Args:
        side: of a patch, in pixels.
        weights, device: as for all networks.
    """

    name: ClassVar[str] = "patch-fid"

    def __init__(self, *, side: int | str = 256, weights: str | None = None, device: str = "cpu") -> None:
        super().__init__(weights=weights, device=device)
        self.side = int(side)
        if self.side < 2:
            raise ConfigError(f"patch-fid.side is a number of pixels from 2, got {side!r}")

    @property
    def version(self) -> str:
        return f"{super().version}, patches of {self.side}"

    def features(self, pixels: np.ndarray) -> Mapping[str, np.ndarray]:
        """A row for every patch; none where the picture is smaller than one."""
        found = patches(pixels, self.side)
        rows = [extract(self.network, found[i : i + _BATCH], self.device) for i in range(0, len(found), _BATCH)]
        [name] = self.arrays
        return {name: np.concatenate([np.empty((0, 2048), np.float32), *(each[name] for each in rows)])}


def patches(pixels: np.ndarray, side: int) -> np.ndarray:
    """Patches [n, side, side, 3] of a picture [H, W, 3]: the grid at 0, then the grid at half a patch.

    >>> len(patches(np.zeros((512, 768, 3), np.uint8), 256))
    8
    """
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    corners = [(side * i, side * j) for i in range(rows) for j in range(columns)]
    corners += [(side * i + side // 2, side * j + side // 2) for i in range(rows - 1) for j in range(columns - 1)]
    cut = [pixels[top : top + side, left : left + side] for top, left in corners]
    return np.stack(cut) if cut else np.empty((0, side, side, 3), pixels.dtype)

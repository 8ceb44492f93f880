"""NIQE, the natural image quality evaluator (Mittal et al. 2013, doi:10.1109/LSP.2012.2227726).

    luma --normalise--> coefficients --blocks of 96--> features of two scales --Gaussian--> distance to pristine ones

Constants are those of the authors' MATLAB release, as is the luma of its `rgb2gray`, rounded to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, cached_property
from typing import ClassVar

import numpy as np

from obverse.errors import WeightsError
from obverse.evaluation.interfaces import Direction, Metric
from obverse_metrics.weights import MetricWeights, Published

_PARAMETERS = Published(
    "niqe_pris_params.npz",
    "https://github.com/XPixelGroup/BasicSR/raw/master/basicsr/metrics/niqe_pris_params.npz",
    "Apache-2.0",
)
_LUMA = np.array([0.298936021293775, 0.587043074451121, 0.114020904255103])
_BLOCK = 96
_FEATURES = 36
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_SHAPES = np.arange(0.2, 10.001, 0.001)


class NIQE(Metric):
    """Distance of a picture's statistics from those of pristine photographs; sees the decoded picture alone.

    Args:
        weights: path of the pristine parameters, .npz; None to look in the folder that OBVERSE_METRIC_WEIGHTS names.
    """

    name: ClassVar[str] = "niqe"
    direction: ClassVar[Direction] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (0, None)
    colour_space: ClassVar[str] = "luma (BT.601)"
    needs_reference: ClassVar[bool] = False

    def __init__(self, *, weights: str | None = None) -> None:
        self._weights = MetricWeights(metric=self.name, published=[_PARAMETERS], given=weights)

    def missing(self) -> str | None:
        return self._weights.missing()

    @property
    def version(self) -> str:
        return f"obverse 1, parameters {self._weights.digest or 'missing'}"

    @cached_property
    def pristine(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [36] and covariance [36, 36] of pristine photographs' features.

        Raises:
            WeightsError: the file is not there or holds other things.
        """
        [path] = self._weights.paths()
        try:
            with np.load(path, allow_pickle=False) as arrays:
                mean, covariance = arrays["mu_pris_param"].reshape(-1), arrays["cov_pris_param"]
        except (OSError, ValueError, KeyError) as error:
            message = f"parameters of niqe: {str(path)!r} is no .npz file with mu_pris_param and cov_pris_param"
            raise WeightsError(message) from error
        if mean.shape != (_FEATURES,) or covariance.shape != (_FEATURES, _FEATURES):
            raise WeightsError(f"parameters of niqe: {str(path)!r} is not of {_FEATURES} features")
        return mean, covariance

    def measure(self, reference: np.ndarray, decoded: np.ndarray) -> float | None:
        """From 0; None where fewer than two blocks of 96x96 pixels show any detail."""
        features = block_features(np.rint(decoded @ _LUMA))
        whole = features[~np.isnan(features).any(axis=1)]
        if len(whole) < 2:
            return None
        mean, covariance = self.pristine
        difference = mean - np.nanmean(features, axis=0)
        inverse = np.linalg.pinv((covariance + np.cov(whole, rowvar=False)) / 2)
        return float(np.sqrt(difference @ inverse @ difference))


def block_features(luma: np.ndarray) -> np.ndarray:
    """Features of a picture's whole blocks; NaN where a block is flat.

    Args:
        luma: [H, W] float64, 0 to 255.

    Returns:
        [blocks, 36]: 18 at full size, then the same of the picture at half size.
    """
    rows, columns = (side // _BLOCK for side in luma.shape)
    luma = luma[: rows * _BLOCK, : columns * _BLOCK]
    if not luma.size:
        return np.empty((0, _FEATURES))
    scales = []
    for image, block in ((luma, _BLOCK), (halve(luma), _BLOCK // 2)):
        normalised = normalise(image)
        scales.append(
            [
                statistics(normalised[block * i : block * (i + 1), block * j : block * (j + 1)])
                for i in range(rows)
                for j in range(columns)
            ]
        )
    return np.concatenate([np.array(scale) for scale in scales], axis=1)


def normalise(image: np.ndarray) -> np.ndarray:
    """(pixel - local mean) / (local deviation + 1) under a Gaussian of 7x7 pixels (equation 1)."""
    mean = _blur(image)
    deviation = np.sqrt(np.abs(_blur(np.square(image)) - np.square(mean)))
    normalised: np.ndarray = (image - mean) / (deviation + 1)
    return normalised


def statistics(block: np.ndarray) -> list[float]:
    """18 features of a block of normalised coefficients: of themselves and of products of neighbours."""
    alpha, left, right = asymmetric_gaussian(block)
    features = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        alpha, left, right = asymmetric_gaussian(block * np.roll(block, shift, axis=(0, 1)))
        features += [alpha, (right - left) * math.gamma(2 / alpha) / math.gamma(1 / alpha), left, right]
    return features


def asymmetric_gaussian(values: np.ndarray) -> tuple[float, float, float]:
    """Shape, left and right scale of the asymmetric generalised Gaussian with the same moments.

    The shape is the nearest of 0.2, 0.201, ..., 10, as in the authors' release. Scales of one-sided values are NaN.
    """
    negative, positive = values[values < 0], values[values > 0]
    if not negative.size or not positive.size:
        return _SHAPES[0], math.nan, math.nan
    left, right = (math.sqrt(np.square(side).mean()) for side in (negative, positive))
    skew = left / right
    ratio = np.abs(values).mean() ** 2 / np.square(values).mean()
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    alpha = float(_SHAPES[np.square(_ratios() - ratio).argmin()])
    scale = math.sqrt(math.gamma(1 / alpha) / math.gamma(3 / alpha))
    return alpha, left * scale, right * scale


def halve(image: np.ndarray) -> np.ndarray:
    """Half the size, sides even: bicubic with antialiasing and mirrored borders, as MATLAB's `imresize`."""
    distances = (np.arange(8) - 3.5) / 2  # of the eight nearest pixels from a result's centre, in its pixels
    weights = _cubic(np.abs(distances))
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(3, 3) if axis == each else (0, 0) for each in (0, 1)], mode="symmetric")
        taps = np.lib.stride_tricks.sliding_window_view(padded, 8, axis=axis)
        image = (taps[::2] if axis == 0 else taps[:, ::2]) @ weights
    return image


def _cubic(x: np.ndarray) -> np.ndarray:
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


@cache
def _ratios() -> np.ndarray:
    """Squared mean absolute value over mean square, for every shape."""
    gamma: Mapping[int, np.ndarray] = {n: np.array([math.gamma(n / shape) for shape in _SHAPES]) for n in (1, 2, 3)}
    ratios: np.ndarray = np.square(gamma[2]) / (gamma[1] * gamma[3])
    return ratios


def _blur(image: np.ndarray) -> np.ndarray:
    places = np.arange(-3, 4)
    kernel = np.exp(-np.square(places) / (2 * (7 / 6) ** 2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(3, 3) if axis == each else (0, 0) for each in (0, 1)], mode="edge")
        image = np.lib.stride_tricks.sliding_window_view(padded, 7, axis=axis) @ kernel
    return image

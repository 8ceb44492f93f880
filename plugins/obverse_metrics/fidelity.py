"""Metrics of what was lost: PSNR and MS-SSIM over 8-bit RGB."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from typing import TYPE_CHECKING, ClassVar

from obverse.evaluation.interfaces import Direction, Metric
from obverse.pixels import psnr

if TYPE_CHECKING:
    import numpy as np

_SMALLEST = 161
"""Shortest side in pixels that MS-SSIM is defined for: five scales under a window of 11 pixels."""


class PSNR(Metric):
    """Peak signal-to-noise ratio in dB, from one mean squared error over the three channels of a picture."""

    name: ClassVar[str] = "psnr-rgb"
    direction: ClassVar[Direction] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (0, None)

    @property
    def version(self) -> str:
        return "obverse 1"

    def measure(self, reference: np.ndarray, decoded: np.ndarray) -> float | None:
        """In dB; None for identical pictures, where it is infinite."""
        value = psnr(reference, decoded)
        return None if math.isinf(value) else value


class MSSSIM(Metric):
    """Multi-scale structural similarity (Wang et al. 2003) as pytorch-msssim defines it, linear, mean over RGB."""

    name: ClassVar[str] = "ms-ssim-rgb"
    direction: ClassVar[Direction] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (0, 1)

    def missing(self) -> str | None:
        if importlib.util.find_spec("pytorch_msssim") is None:
            return "needs the package pytorch-msssim (MIT): pip install 'obverse[eval]'"
        return None

    @property
    def version(self) -> str:
        return "" if self.missing() else f"pytorch-msssim {importlib.metadata.version('pytorch-msssim')}"

    def measure(self, reference: np.ndarray, decoded: np.ndarray) -> float | None:
        """In [0, 1]; None where a side has fewer than 161 pixels."""
        if min(reference.shape[:2]) < _SMALLEST:
            return None
        import torch
        from pytorch_msssim import ms_ssim  # type: ignore[import-untyped]

        a, b = (torch.tensor(x).permute(2, 0, 1)[None].float() for x in (reference, decoded))
        with torch.inference_mode():
            return float(ms_ssim(a, b, data_range=255))

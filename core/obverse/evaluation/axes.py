"""How metrics and rates are told on axes and in tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from obverse.evaluation.interfaces import Direction

ALIASES: Mapping[str, str] = {"psnr": "psnr-rgb", "ms-ssim": "ms-ssim-rgb"}
"""Short names, as CompressAI's plotter and its older result files have them."""

RATES: Mapping[str, str] = {
    "bpp": "bits per pixel of the whole file",
    "bpp_payload": "bits per pixel of the entropy-coded symbols",
    "bpp_estimated": "bits per pixel that the model estimates",
}
"""The rates that result files tell apart, and what they count."""

_KNOWN: Mapping[str, tuple[str, str, Direction]] = {
    "psnr": ("PSNR", "dB", "higher"),
    "ms-ssim": ("MS-SSIM", "", "higher"),
    "ssim": ("SSIM", "", "higher"),
    "lpips": ("LPIPS", "", "lower"),
    "dists": ("DISTS", "", "lower"),
    "niqe": ("NIQE", "", "lower"),
    "clip-iqa": ("CLIP-IQA", "", "higher"),
    "fid": ("FID", "", "lower"),
    "rfid": ("rFID", "", "lower"),
    "sfid": ("sFID", "", "lower"),
    "patch-fid": ("FID of patches", "", "lower"),
    "is": ("IS", "", "higher"),
    "precision": ("precision", "", "higher"),
    "recall": ("recall", "", "higher"),
    "kid": ("KID", "", "lower"),
}
"""Label, unit and direction of metrics by the beginning of their names, for files that do not tell."""


@dataclass(frozen=True)
class Axis:
    """An axis of a metric.

    Attributes:
        metric: key in results.
        direction: which way is better; None where nobody told.
    """

    metric: str
    direction: Direction | None

    @property
    def decibel(self) -> bool:
        """Whether values are stored linear and shown as -10 log10(1 - value): MS-SSIM."""
        return "ms-ssim" in self.metric

    @property
    def label(self) -> str:
        """Name and unit, as `PSNR (rgb) [dB]`."""
        family = _family(self.metric)
        if family is None:
            return self.metric
        name, unit, _ = _KNOWN[family]
        variant = self.metric[len(family) + 1 :]
        unit = "dB of the mean" if self.decibel else unit
        return f"{name}{f' ({variant})' if variant else ''}{f' [{unit}]' if unit else ''}"

    def shown(self, value: float) -> float | None:
        """A stored value as the axis has it; None where that is infinite."""
        if not self.decibel:
            return value if math.isfinite(value) else None
        return -10 * math.log10(1 - value) if value < 1 else None


def axis(metric: str, direction: Direction | None = None) -> Axis:
    """The axis of a metric by its name, or the short form of it; `direction` where the results tell."""
    metric = ALIASES.get(metric, metric)
    family = _family(metric)
    return Axis(metric, direction or (_KNOWN[family][2] if family else None))


def _family(metric: str) -> str | None:
    return next((name for name in _KNOWN if metric == name or metric.startswith(f"{name}-")), None)

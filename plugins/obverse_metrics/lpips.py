"""LPIPS v0.1 (Zhang et al. 2018, arXiv:1801.03924) with its three trunks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from obverse.evaluation.interfaces import Direction, Metric
from obverse.nn.lpips import LPIPS
from obverse_metrics.networks import NetworkOptions
from obverse_metrics.weights import Published, fill, read_all

if TYPE_CHECKING:
    import numpy as np

_HEADS = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1"
_TRUNKS = "https://download.pytorch.org/models"
_HEAD = re.compile(r"(lin\d)\.model\.1\.weight")


def _files(trunk: str, heads: str) -> tuple[Published, Published]:
    return (
        Published(trunk, f"{_TRUNKS}/{trunk}", "BSD-3-Clause"),
        Published(heads, f"{_HEADS}/{heads}", "BSD-2-Clause"),
    )


class _Distance(NetworkOptions, Metric):
    """Perceptual distance of RGB pictures: what a trained trunk sees, weighted as people judged it."""

    trunk: ClassVar[str]
    direction: ClassVar[Direction] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (0, None)
    implementation: ClassVar[str] = "LPIPS v0.1, obverse 1"

    def load(self) -> nn.Module:
        """From the official files, or from one with the same tensors and short names of the heads, `linN.weight`."""
        paths, model = self.weights.paths(), LPIPS(self.trunk)
        tensors = {
            _HEAD.sub(r"\1.weight", name): value
            for name, value in read_all(paths).items()
            if not name.startswith("classifier.")  # the trunk's own purpose
        }
        fill(model, tensors, paths)
        return model

    def measure(self, reference: np.ndarray, decoded: np.ndarray) -> float | None:
        """From 0; None for pictures that are too small for the trunk."""
        if min(reference.shape[:2]) < LPIPS.smallest[self.trunk]:
            return None
        with torch.inference_mode():
            return float(self.network(*(self.tensor(x)[None] / 255 for x in (reference, decoded))))


class LPIPSAlex(_Distance):
    """LPIPS with AlexNet, the one that most papers report."""

    name: ClassVar[str] = "lpips-alex"
    trunk: ClassVar[str] = "alex"
    published: ClassVar[Sequence[Published]] = _files("alexnet-owt-7be5be79.pth", "alex.pth")
    merged: ClassVar[str | None] = "lpips_alex.safetensors"


class LPIPSVGG(_Distance):
    """LPIPS with VGG-16, the one that models are trained with."""

    name: ClassVar[str] = "lpips-vgg"
    trunk: ClassVar[str] = "vgg"
    published: ClassVar[Sequence[Published]] = _files("vgg16-397923af.pth", "vgg.pth")
    merged: ClassVar[str | None] = "lpips_vgg.safetensors"


class LPIPSSqueeze(_Distance):
    """LPIPS with SqueezeNet 1.1, the smallest."""

    name: ClassVar[str] = "lpips-squeeze"
    trunk: ClassVar[str] = "squeeze"
    published: ClassVar[Sequence[Published]] = _files("squeezenet1_1-b8a52dc0.pth", "squeeze.pth")
    merged: ClassVar[str | None] = "lpips_squeeze.safetensors"

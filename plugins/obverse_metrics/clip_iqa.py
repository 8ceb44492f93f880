"""CLIP-IQA (Wang et al. 2023, arXiv:2207.12396): is the picture nearer to "Good photo." or to "Bad photo."?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from obverse.evaluation.interfaces import Direction, Metric
from obverse_metrics.clip import CLIP
from obverse_metrics.networks import NetworkOptions
from obverse_metrics.weights import Published, fill, read_all

if TYPE_CHECKING:
    import numpy as np

PROMPTS = ((49406, 886, 1125, 269, 49407), (49406, 2103, 1125, 269, 49407))
"""`Good photo.` and `Bad photo.` in CLIP's vocabulary, between the tokens of start and end."""

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_SMALLEST = 32
_SETTINGS = ("input_resolution", "context_length", "vocab_size")  # numbers beside the official tensors
_URL = (
    "https://openaipublic.azureedge.net/clip/models/"
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt"
)


class CLIPIQA(NetworkOptions, Metric):
    """Probability of a good photo, by CLIP with ResNet-50 at the picture's own size; sees the decoded picture alone."""

    name: ClassVar[str] = "clip-iqa"
    direction: ClassVar[Direction] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (0, 1)
    needs_reference: ClassVar[bool] = False
    published: ClassVar[Sequence[Published]] = [Published("RN50.pt", _URL, "MIT")]
    implementation: ClassVar[str] = "CLIP-IQA RN50, obverse 1"

    def load(self) -> nn.Module:
        paths, model = self.weights.paths(), CLIP()
        fill(model, {name: value for name, value in read_all(paths).items() if name not in _SETTINGS}, paths)
        return model

    @cached_property
    def prompts(self) -> Tensor:
        """What the two texts are, [2, dim]."""
        with torch.inference_mode():
            return self._clip.encode_text(torch.tensor(PROMPTS, device=self.device))

    def measure(self, reference: np.ndarray, decoded: np.ndarray) -> float | None:
        """In [0, 1]; None where a side has fewer than 32 pixels."""
        if min(decoded.shape[:2]) < _SMALLEST:
            return None
        mean, deviation = (torch.tensor(each, device=self.device)[:, None, None] for each in (_MEAN, _DEVIATION))
        with torch.inference_mode():
            image = self._clip.encode_image((self.tensor(decoded)[None] / 255 - mean) / deviation)
            logits = self._clip.logit_scale.exp() * image @ self.prompts.T
            return float(logits.softmax(dim=-1)[0, 0])

    @property
    def _clip(self) -> CLIP:
        assert isinstance(self.network, CLIP)
        return self.network

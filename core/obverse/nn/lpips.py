"""LPIPS v0.1 with an AlexNet trunk (arXiv:1801.03924), from a safetensors file of weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """Perceptual distance; lower is better, 0 for equal images.

    Keys are those of torchvision's AlexNet (`features.N.weight`) and the official heads (`linN.weight`).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2), relu(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), relu(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), relu(),
            nn.Conv2d(384, 256, 3, padding=1), relu(),
            nn.Conv2d(256, 256, 3, padding=1), relu(),
        )  # fmt: skip
        for index, width in enumerate((64, 192, 384, 256, 256)):
            setattr(self, f"lin{index}", nn.Conv2d(width, 1, 1, bias=False))
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path) -> LPIPS:
        """Read weights, strictly."""
        model = cls()
        model.load_state_dict(load_file(path), strict=True)
        return model.eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances [B] of two batches [B, 3, H, W] in [0, 1]."""
        total = torch.zeros(len(a), device=a.device)
        x, y = ((image * 2 - 1 - self.shift) / self.scale for image in (a, b))
        taps = 0
        for layer in self.features:
            x, y = layer(x), layer(y)
            if isinstance(layer, nn.ReLU):
                difference = (_unit(x) - _unit(y)).square()
                head = getattr(self, f"lin{taps}").weight
                total = total + F.conv2d(difference, head).mean(dim=(1, 2, 3)).float()
                taps += 1
        return total


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

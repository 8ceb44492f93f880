"""Pictures to look at: rows of images in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_array(image: Tensor) -> np.ndarray:
    """[3, H, W] in [0, 1] to [H, W, 3] uint8, rounded."""
    scaled = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return scaled.permute(1, 2, 0).cpu().numpy()


def save_rows(path: Path, rows: list[Tensor]) -> None:
    """Write one PNG with a row per batch [B, 3, H, W] in [0, 1]."""
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_array(grid)).save(path)

"""Images for training, from folders and tar files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from obverse.errors import ConfigError
from obverse.images import IMAGE_SUFFIXES


class ImageCrops(Dataset[Tensor]):
    """Random crops of the images in folders and tar files, flipped left-right half of the time.

    The crop of an item depends on the seed, the epoch and the item alone, so that a resumed run sees the same
    pictures as one that was not interrupted.

    Args:
        sources: folders (searched recursively) and tar files.
        crop: side in pixels; images that are smaller are left out by an error.
        seed: seed of the crops.
        cache: keep decoded images in memory.
    """

    def __init__(self, sources: Sequence[str | Path], crop: int, seed: int = 0, cache: bool = True) -> None:
        self.crop, self.seed, self.epoch = crop, seed, 0
        self._entries = [entry for source in sources for entry in _list(Path(source))]
        if not self._entries:
            raise ConfigError(f"no images in {[str(s) for s in sources]}: data.sources takes folders and tar files")
        self._cache: dict[int, np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Tensor:
        """One crop, [3, crop, crop] float32 in [0, 1]."""
        image = self._image(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        top, left = (int(rng.integers(0, size - self.crop + 1)) for size in image.shape[:2])
        piece = image[top : top + self.crop, left : left + self.crop]
        if rng.random() < 0.5:
            piece = piece[:, ::-1]
        return torch.from_numpy(piece.transpose(2, 0, 1).copy()).float() / 255

    def _image(self, index: int) -> np.ndarray:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        path, offset, size = self._entries[index]
        with path.open("rb") as file:
            file.seek(offset)
            image = np.asarray(Image.open(io.BytesIO(file.read(size))).convert("RGB"))
        if min(image.shape[:2]) < self.crop:
            raise ConfigError(f"an image in {path} is {image.shape[1]}x{image.shape[0]}, smaller than data.crop")
        if self._cache is not None:
            self._cache[index] = image
        return image


def _list(source: Path) -> list[tuple[Path, int, int]]:
    """Where each image lies: file, offset, bytes (-1 for all)."""
    if source.is_dir():
        found = sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        return [(path, 0, -1) for path in found]
    if not source.is_file():
        raise ConfigError(f"data source {str(source)!r} does not exist")
    with tarfile.open(source, "r:") as tar:
        members = [m for m in tar if m.isfile() and Path(m.name).suffix.lower() in IMAGE_SUFFIXES]
    return [(source, m.offset_data, m.size) for m in members]

"""The images of a folder, as every process of a run sees them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obverse.errors import UnsupportedInputError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Images in a folder and the folders in it.

    Attributes:
        root: the folder.
        files: paths relative to it, with slashes, sorted.
    """

    root: Path
    files: tuple[str, ...]

    @cached_property
    def hash(self) -> str:
        """SHA-256 over names and sizes of the files, so that lists of images can be compared."""
        digest = hashlib.sha256()
        for name in self.files:
            digest.update(f"{name}\0{(self.root / name).stat().st_size}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def read(self, name: str) -> np.ndarray:
        """One image, [H, W, 3] uint8 sRGB.

        Raises:
            UnsupportedInputError: it cannot be read.
        """
        from obverse.images import read_image

        return read_image(self.root / name).pixels

    def describe(self) -> dict[str, Any]:
        """For the result file."""
        root = self.root.absolute()
        return {"name": root.name, "count": len(self.files), "hash": self.hash, "root": str(root)}


def find_images(root: Path, limit: int | None = None) -> Dataset:
    """The images of a folder, searched recursively.

    Args:
        root: the folder.
        limit: only the first so many by name.

    Raises:
        UnsupportedInputError: there is no such folder, or no image in it.
    """
    from obverse.images import IMAGE_SUFFIXES

    if not root.is_dir():
        raise UnsupportedInputError(f"dataset {str(root)!r} is no folder; name a folder with images")
    found: list[str] = []
    for folder, _, files in os.walk(root, onerror=_refuse):
        inner = Path(folder).relative_to(root)
        found += [(inner / file).as_posix() for file in files if Path(file).suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise UnsupportedInputError(
            f"no images in {str(root)!r} (files that end in {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return Dataset(root, tuple(sorted(found)[:limit]))


def _refuse(error: OSError) -> None:
    raise UnsupportedInputError(f"folder {error.filename!r} cannot be read: {error.strerror}") from error

"""Names of tokens in Chameleon's vocabulary, and the arguments of the prior that follow from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obverse.errors import ConfigError

BEGIN = "<racm3:break>"
ROW_END = "<reserved08799>"
GRID = 8800
"""A grid of n patches a side is `<reserved08800 + n>`."""

_DIGITS = str.maketrans("0123456789", "ABCDEFGHIJ")


def image_name(code: int) -> str:
    """Name of a code of the image tokenizer.

    >>> image_name(407)
    'IMGIMGEAHZ'
    """
    return f"IMGIMG{str(code).translate(_DIGITS)}Z"


def grid_name(patches: int) -> str:
    """Name of the token that announces rows or columns of patches.

    >>> grid_name(16)
    '<reserved08816>'
    """
    return f"<reserved{GRID + patches:05d}>"


def read_ids(file: str | Path) -> dict[str, Any]:
    """Arguments of `LuminaPrior` from the `text_tokenizer.json` that comes with Chameleon.

    Raises:
        ConfigError: it cannot be read, or lacks a name.
    """
    try:
        names = json.loads(Path(file).read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"vocabulary {str(file)!r} cannot be read: {error}") from error
    return ids_of(names)


def ids_of(names: Mapping[str, int]) -> dict[str, Any]:
    """Arguments `image`, `begin`, `row_end` and `grid` of `LuminaPrior` from ids by name.

    Raises:
        ConfigError: a name is missing, or grid tokens do not follow each other.
    """
    image: list[int] = []
    while (name := image_name(len(image))) in names:
        image.append(names[name])
    needed = [image_name(0), BEGIN, ROW_END, grid_name(1)]
    if missing := [name for name in needed if name not in names]:
        raise ConfigError(f"not Chameleon's vocabulary: no token is named {', '.join(missing)}")
    grid, patches = names[grid_name(1)] - 1, 1
    while grid_name(patches) in names:
        if names[grid_name(patches)] != grid + patches:
            raise ConfigError(f"{grid_name(patches)} has id {names[grid_name(patches)]}, expected {grid + patches}")
        patches += 1
    ordered = image == list(range(image[0], image[0] + len(image)))
    return {
        "image": image[0] if ordered else image,
        "begin": names[BEGIN],
        "row_end": names[ROW_END],
        "grid": grid,
    }

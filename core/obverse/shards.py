"""Weights in several files: a folder, or an index that names the shards.

An index is a JSON file with a `weight_map` of tensors to file names, as `model.safetensors.index.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

from obverse.errors import WeightsError

INDEX_SUFFIX = ".index.json"


def is_index(path: Path) -> bool:
    """Whether the name says that it is an index."""
    return path.name.endswith(INDEX_SUFFIX)


def indexed(path: Path) -> list[Path]:
    """Shards that an index names, by name; they lie beside it.

    Raises:
        WeightsError: the index cannot be read or has no names.
    """
    try:
        names = set(json.loads(path.read_bytes())["weight_map"].values())
    except OSError as error:
        raise WeightsError(f"weights {str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"weights {str(path)!r}: no index of shards, its 'weight_map' is missing") from error
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise WeightsError(f"weights {str(path)!r}: the index names no files beside it")
    return [path.with_name(name) for name in sorted(names)]


def files_of(path: Path) -> list[Path]:
    """The files that hold tensors: the shards of a folder or an index, in the order of their names; else the file.

    A folder stands for the index in it, the one of safetensors if there are two; without an index for all of its
    safetensors files.

    Raises:
        WeightsError: a folder without either, or an index that cannot be read.
    """
    if is_index(path):
        return indexed(path)
    if not path.is_dir():
        return [path]
    indices = sorted(path.glob(f"*{INDEX_SUFFIX}"), key=lambda file: (".safetensors" not in file.name, file.name))
    files = indexed(indices[0]) if indices else sorted(path.glob("*.safetensors"))
    if not files:
        raise WeightsError(
            f"weights {str(path)!r} is a folder without safetensors files and without an index (*{INDEX_SUFFIX}); "
            "name the file in it"
        )
    return files

"""Toy codecs of both families, in every numerics mode."""

from __future__ import annotations

import pytest
import toys

import obverse
from obverse.codec import Codec


@pytest.fixture(scope="session")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Codec]:
    """Codecs by name."""
    folder = tmp_path_factory.mktemp("toys")
    paths = [
        toys.toy_config(folder),
        toys.toy_config(folder, name="toy-llama", prior="llama"),
        toys.toy_hyper_config(folder),
    ]
    found = {path.stem: obverse.load(path) for path in paths}
    for mode in ("guarded64", "native"):
        path = toys.toy_config(folder, name=f"toy-{mode}", prior="llama", seed=1)
        found[path.stem] = obverse.load(path, numerics=mode)
    return found

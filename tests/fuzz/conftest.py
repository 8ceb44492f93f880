"""Toy codecs of both families."""

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
    return {path.stem: obverse.load(path) for path in paths}

"""Round trips through real bytes at the sizes of official releases, with random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from obverse.codec import Codec
from obverse.config import load_config
from obverse.pipeline import build


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llamagen-b-256", "var-d16"])
def test_streams_of_full_size_models(name: str) -> None:
    torch.manual_seed(0)
    config = replace(load_config(name), weights=())
    codec = Codec(config, build(config))
    assert codec.numerics == "exact"
    pixels = np.random.default_rng(0).integers(0, 256, (240, 250, 3), dtype=np.uint8)
    data = codec.compress(pixels, verify=True)
    assert codec.decompress(data).size == (250, 240)

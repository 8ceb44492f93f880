"""One recorded stream per family of priors: small codecs with seeded weights decode it to the recorded symbols.

Rewritten with OBVERSE_REGENERATE=1 when a family changes on purpose, and never otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from obverse import container
from obverse.codec import Codec
from obverse.config import CodecConfig
from obverse.pipeline import build
from obverse.selftest.seeded import fill

FOLDER = Path(__file__).parents[1] / "golden" / "families"
SYMBOLS = FOLDER / "symbols.json"

CONVOLUTIONS = {"z_channels": 5, "width": 32, "multipliers": [1, 2, 2], "blocks": 1}
CODES = {"size": 19, "dim": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "vqgan": {
        "encoder": {"name": "vqgan", "embed_dim": 4, **CONVOLUTIONS, "attention_levels": [2]},
        "quantizer": {"name": "vqgan", **CODES},
        "prior": {"name": "vqgan-gpt", "vocabulary": 19, "dim": 24, "layers": 2, "heads": 3, "window": 4},
    },
    "llamagen": {
        "encoder": {"name": "llamagen", "embed_dim": 4, **CONVOLUTIONS, "attention_levels": [2]},
        "quantizer": {"name": "llamagen", **CODES, "unit": True},
        "prior": {
            "name": "llamagen", "vocabulary": 19, "dim": 24, "layers": 2, "heads": 2, "hidden": 64, "classes": 3,
            "window": 4,
        },
    },
    "var": {
        "encoder": {
            "name": "var", "tile": 10, "embed_dim": 6, "z_channels": 6, "width": 32, "multipliers": [1, 1],
            "blocks": 1, "attention_levels": [1],
        },
        "quantizer": {"name": "var", "size": 19, "dim": 6, "sides": [1, 2, 3, 5], "phis": 3},
        "prior": {
            "name": "var", "sides": [1, 2, 3, 5], "vocabulary": 19, "channels": 6, "dim": 24, "layers": 2, "heads": 3,
            "classes": 3, "phis": 3,
        },
    },
    "cosmos": {
        "encoder": {
            "name": "cosmos-video", "patch": 2, "stride": 8, "time_stride": 4, "dim": 3, "z_channels": 5, "width": 4,
            "multipliers": [1, 2, 2], "blocks": 1, "attention_levels": [1],
        },
        "quantizer": {"name": "fsq", "levels": [3, 4, 2]},
        "prior": {
            "name": "cosmos-ar", "vocabulary": 24, "dim": 24, "layers": 2, "hidden": 40, "heads": 4, "key_heads": 2,
            "head_dim": 12, "window": 4,
        },
    },
    "lumina": {
        "encoder": {"name": "chameleon", "embed_dim": 4, **CONVOLUTIONS, "multiple": 8},
        "quantizer": {"name": "chameleon", **CODES},
        "prior": {
            "name": "lumina", "codes": 19, "vocabulary": 40, "dim": 24, "layers": 2, "heads": 4, "hidden": 40,
            "window": 4, "image": 3, "begin": 25, "row_end": 26, "grid": 30,
        },
    },
}  # fmt: skip


def small_codec(name: str) -> Codec:
    config = CodecConfig(f"small-{name}", {**FAMILIES[name], "coder": {"name": "range"}})
    pipeline = build(config)
    for prefix, module in pipeline.modules.items():
        fill(module, f"{name}/{prefix}", gain=2.0)
    return Codec(config, pipeline)


def symbols_of(codec: Codec, data: bytes) -> str:
    coded, _ = codec._decode(container.unpack(data))
    digest = hashlib.sha256()
    for part in coded:
        digest.update(part.symbols.numpy().astype("<i4").tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("name", FAMILIES)
def test_golden_stream_decodes(name: str) -> None:
    codec, file = small_codec(name), FOLDER / f"{name}.obv"
    assert codec.numerics == "exact"
    recorded = json.loads(SYMBOLS.read_text(encoding="utf-8")) if SYMBOLS.exists() else {}
    if os.environ.get("OBVERSE_REGENERATE") == "1":
        pixels = np.random.default_rng(0).integers(0, 256, (37, 21, 3), dtype=np.uint8)
        file.write_bytes(codec.compress(pixels, verify=True))
        recorded[name] = symbols_of(codec, file.read_bytes())
        SYMBOLS.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    data = file.read_bytes()
    assert symbols_of(codec, data) == recorded[name]
    assert codec.decompress(data).size == (21, 37)

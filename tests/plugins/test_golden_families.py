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
from obverse.nn.gdn import GDN
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
    "hific": {
        "encoder": {
            "name": "hific", "widths": [4, 5, 6, 7, 8], "residual_blocks": 1, "latent_channels": 5, "hyper_channels": 4,
            "reflect": True, "signed": True,
        },
        "quantizer": {"name": "rounding", "half_up": True},
        "prior": {"name": "hific", "latent_channels": 5, "hyper_channels": 4, "likelihood": "logistic"},
    },
    "msillm": {
        "encoder": {
            "name": "msillm", "widths": [4, 5, 6, 7, 8], "residual_blocks": 1, "latent_channels": 5,
            "hyper_channels": 4,
        },
        "quantizer": {"name": "rounding"},
        "prior": {"name": "msillm", "latent_channels": 5, "hyper_channels": 4},
    },
    "elic": {
        "encoder": {"name": "elic", "width": 4, "latent_channels": 9},
        "quantizer": {"name": "rounding"},
        "prior": {
            "name": "elic", "hyper_channels": 4, "hyper_widths": [4, 6, 8], "groups": [2, 3, 4],
            "context_widths": [6, 5],
        },
    },
    "elic-generator": {
        "encoder": {"name": "elic", "width": 4, "latent_channels": 9, "hyper_channels": 6},
        "quantizer": {"name": "rounding", "strides": {"z": 4}},
        "prior": {
            "name": "elic-generator", "hyper_channels": 6, "parts": 2, "dim": 16, "layers": 2, "heads": 2,
            "hyper_widths": [4, 6, 8], "groups": [2, 3, 4], "context_widths": [6, 5],
        },
    },
    "bmshj2018": {
        "encoder": {"name": "bmshj2018-hyperprior", "width": 4, "latent_channels": 5},
        "quantizer": {"name": "rounding"},
        "prior": {"name": "bmshj2018-hyperprior", "width": 4, "latent_channels": 5},
    },
    "mbt2018": {
        "encoder": {"name": "mbt2018", "width": 4, "latent_channels": 5},
        "quantizer": {"name": "rounding"},
        "prior": {"name": "mbt2018", "width": 4, "latent_channels": 5},
    },
    "cheng2020": {
        "encoder": {"name": "mbt2018", "width": 4, "latent_channels": 4},
        "quantizer": {"name": "rounding"},
        "prior": {"name": "cheng2020", "width": 4},
    },
    "qres": {
        "encoder": {
            "name": "qres", "widths": [8, 8, 8], "blocks": [1, 1, 1], "kernels": [3, 3, 1], "rates": [4, 2, 2],
            "last_width": 8, "last_latents": 2, "last_kernel": 5, "last_block": 3,
        },
        "quantizer": {
            "name": "qres", "widths": [8, 8, 8], "latents": [3, 2, 2], "blocks": [1, 2, 1], "kernels": [1, 3, 5],
        },
        "prior": {
            "name": "qres", "widths": [8, 8, 8], "latents": [3, 2, 2], "blocks": [1, 2, 1], "kernels": [1, 3, 5],
            "ups": ["repeat-2", "deconvolution-3"],
        },
    },
    "qarv": {
        "encoder": {
            "name": "qarv", "widths": [6, 12, 8], "blocks": [1, 1, 1], "kernels": [3, 3, 1], "rates": [4, 2, 2],
            "last_width": 12, "last_latents": 2, "last_kernel": 3, "last_ratio": 1.5, "last_block": 2, "fine_width": 6,
            "fine_blocks": 1, "fine_kernel": 3, "fine_ratio": 1.5, "lambdas": [16, 300], "embedding": 8,
        },
        "quantizer": {
            "name": "qarv", "widths": [8, 12], "latents": [3, 2], "blocks": [1, 2], "kernels": [1, 3], "embedding": 8,
        },
        "prior": {
            "name": "qarv", "widths": [8, 12], "latents": [3, 2], "blocks": [1, 2], "kernels": [1, 3],
            "ratios": [2, 1.5], "lambdas": [16, 300], "embedding": 8,
        },
    },
    "dhvc-intra": {
        "encoder": {
            "name": "dhvc-intra", "widths": [6, 12, 8], "blocks": [1, 1, 1], "kernels": [3, 3, 1], "rates": [4, 2, 2],
            "level_widths": [8, 12], "latents": [3, 2], "level_blocks": [1, 1], "level_kernels": [1, 3],
            "level_ratios": [2, 1.5], "fine_width": 6, "fine_blocks": 1, "fine_kernel": 3, "fine_ratio": 1.5,
        },
        "quantizer": {
            "name": "dhvc-intra", "widths": [8, 12], "latents": [3, 2], "blocks": [1, 1], "kernels": [1, 3],
        },
        "prior": {
            "name": "dhvc-intra", "widths": [8, 12], "latents": [3, 2], "blocks": [1, 1], "kernels": [1, 3],
            "ratios": [2, 1.5], "temporal": 4,
        },
    },
    "dhic": {
        "encoder": {
            "name": "dhic", "widths": [7, 8], "blocks": [1, 1], "stem_blocks": 0, "level_widths": [6, 9],
            "latents": [3, 2], "before": [1, 1], "after": [0, 1], "points": [1, 4], "table": 5,
        },
        "quantizer": {"name": "dhic", "widths": [6, 9], "latents": [3, 2]},
        "prior": {
            "name": "dhic", "widths": [6, 9], "latents": [3, 2], "before": [0, 1], "after": [1], "points": [1, 4],
            "table": 5,
        },
    },
}  # fmt: skip

GAINS = {
    "elic": 0.27,
    "elic-generator": 0.27,
    "mbt2018": 0.6,
    "cheng2020": 0.6,
    "qres": 0.25,
    "qarv": 0.35,
    "dhvc-intra": 0.3,
    "dhic": 0.3,
}
"""Of the seeded weights, where residual blocks, or means that depend on means, would go beyond any latent."""


def small_codec(name: str) -> Codec:
    config = CodecConfig(f"small-{name}", {**FAMILIES[name], "coder": {"name": "range"}})
    pipeline = build(config)
    for prefix, module in pipeline.modules.items():
        fill(module, f"{name}/{prefix}", gain=GAINS.get(name, 2.0))
        for layer in module.modules():
            if isinstance(layer, GDN):
                layer.gamma.data.abs_()  # its norms are positive
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

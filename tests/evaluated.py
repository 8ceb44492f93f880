"""A results folder as `obverse eval` writes it, of numbers that are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import toys
from PIL import Image

from obverse.evaluation.interfaces import Sample

IMAGES = ("a.png", "more/b.png")
SIZES = {"a.png": (48, 32), "more/b.png": (32, 48)}

# By codec and quality: bits per pixel, PSNR and MS-SSIM; fixed-length bits per pixel where there are tokens.
CODECS: dict[str, dict[str, tuple[float, float, float, float | None]]] = {
    "jpeg": {"10": (0.30, 27.0, 0.92, None), "30": (0.55, 30.0, 0.96, None), "60": (0.90, 32.5, 0.98, None)},
    "tokens": {"1": (0.045, 24.0, 0.90, 0.0625)},
    "costly": {"1": (0.11, 25.0, 0.91, 0.1)},
    "hyper": {
        "1": (0.10, 26.0, 0.92, None), "2": (0.20, 28.5, 0.95, None), "3": (0.40, 31.0, 0.97, None),
        "4": (0.80, 34.0, 0.985, None),
    },
}  # fmt: skip


def write_results(folder: Path, pictures: bool = True) -> Path:
    """Write `run.json`, `samples.jsonl`, `set_metrics.json`, CODEC.json and, if asked for, pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = [
        _sample(codec, quality, image, pictures)
        for codec in sorted(CODECS)
        for quality in CODECS[codec]
        for image in IMAGES
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in samples))
    (folder / "run.json").write_text(json.dumps(_run()))
    pooled = {
        codec: {quality: {"fid": 100 - 50 * told[2]} for quality, told in CODECS[codec].items()} for codec in CODECS
    }
    (folder / "set_metrics.json").write_text(json.dumps(pooled))
    for codec in CODECS:
        body = codec_file(codec, [sample for sample in samples if sample.codec == codec])
        (folder / f"{codec}.json").write_text(json.dumps(body))
    if pictures:
        _write_pictures(folder, samples)
    return folder


def codec_file(codec: str, samples: Sequence[Sample]) -> dict[str, Any]:
    """Results in CompressAI's shape."""
    results: dict[str, list[float | None]] = {"bpp": [], "psnr-rgb": [], "ms-ssim-rgb": [], "niqe": []}
    for quality in CODECS[codec]:
        chosen = [sample for sample in samples if sample.quality == quality]
        results["bpp"].append(float(np.mean([sample.bpp for sample in chosen])))
        for metric in ("psnr-rgb", "ms-ssim-rgb"):
            results[metric].append(float(np.mean([sample.metrics[metric] for sample in chosen])))
        results["niqe"].append(chosen[0].metrics["niqe"])
    return {"name": codec, "description": "made up", "meta": {"source": "measured"}, "results": results}


def _run() -> dict[str, Any]:
    order = ["tokens", "costly", "hyper", "jpeg"]
    measured = {"range": [None, None], "colour_space": "RGB", "version": "made up 1"}
    return {
        "schema": 1,
        "dataset": {"name": "made-up", "count": len(IMAGES), "hash": "00", "root": "photos"},
        "protocol": {"name": "whole"},
        "metrics": {
            name: measured | {"direction": way}
            for name, way in {"psnr-rgb": "higher", "ms-ssim-rgb": "higher", "niqe": "lower", "fid": "lower"}.items()
        },
        "subjects": {
            name: {
                "fingerprint": "ab" * 3, "qualities": list(CODECS[name]), "describe": {"licence": "MIT"},
                "parameters": 1_500_000 if name != "jpeg" else None, "codebook": 512 if name == "tokens" else None,
                "tokens": 256 if name == "tokens" else None, "licence": "MIT" if name != "jpeg" else None,
            }
            for name in order
        },
        "skipped": [{"what": "elic-chandelier", "reason": "weights missing"}],
        "environment": {"torch": "2.0", "platform": "made up", "cpu": "made up", "threads": 1},
    }  # fmt: skip


def _sample(codec: str, quality: str, image: str, pictures: bool) -> Sample:
    bpp, psnr, msssim, fixed = CODECS[codec][quality]
    shift = 0.02 if image == IMAGES[0] else -0.02
    width, height = SIZES[image]
    classical = codec == "jpeg"
    return Sample(
        key=f"{codec}-{quality}-{image}",
        filename=image,
        image="00",
        width=width,
        height=height,
        codec=codec,
        fingerprint="ab" * 3,
        quality=quality,
        protocol="whole",
        bytes=round(bpp * width * height / 8),
        bpp=bpp * (1 + shift),
        bpp_payload=None if classical else bpp * (1 + shift) * 0.95,
        bpp_estimated=None if classical else bpp * (1 + shift) * 0.94,
        bpp_fixed=fixed,
        times={
            "encoding": 0.4, "decoding": 0.5,
            "coder_encoding": None if classical else 0.1, "coder_decoding": None if classical else 0.2,
        },
        metrics={"psnr-rgb": psnr * (1 + shift), "ms-ssim-rgb": msssim, "niqe": None if classical else 5 - msssim},
        picture=f"pictures/{codec}/{quality}/{image}.png" if pictures else None,
    )  # fmt: skip


def _write_pictures(folder: Path, samples: Sequence[Sample]) -> None:
    for image in IMAGES:
        path = folder / "pictures" / "reference" / f"{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(toys.picture(*SIZES[image])).save(path)
    for sample in samples:
        assert sample.picture is not None
        path = folder / sample.picture
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = toys.picture(sample.width, sample.height) // 32 * 32 + 16
        Image.fromarray(pixels.astype(np.uint8)).save(path)

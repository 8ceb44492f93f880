"""A results folder as `obverse eval` writes it, made in a moment from pictures coded by Pillow.

As a script it makes one to look at, with the bundled codecs:

    python tests/results_folder.py FOLDER IMAGE...
    obverse report FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from obverse.evaluation.interfaces import Sample, Trip

Coder = Callable[[np.ndarray, str], Trip]

METRICS = {
    "psnr-rgb": {"direction": "higher", "range": [0, None], "colour_space": "RGB", "version": "obverse"},
    "mae": {"direction": "lower", "range": [0, 255], "colour_space": "RGB", "version": "tests"},
}


def picture(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Smooth colours with an edge, [height, width, 3] uint8; another for each number."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (7 + number + c) + c) + np.cos(y / (11 + c) + number) for c in range(3)]
    image = np.stack(waves, axis=-1) * 50 + 128
    image[height // 3 : height // 2, width // 4 : width // 2] = (220, 60 + 20 * number, 40)
    return image.clip(0, 255).round().astype(np.uint8)


def pillow_coder(kind: str, **options: Any) -> Coder:
    """A codec of Pillow; the quality is Pillow's."""

    def trip(pixels: np.ndarray, quality: str) -> Trip:
        file = io.BytesIO()
        started = time.perf_counter()
        Image.fromarray(pixels).save(file, kind, quality=int(quality), **options)
        coded = time.perf_counter()
        with Image.open(file) as image:
            decoded = np.array(image.convert("RGB"))
        return Trip(
            pixels=decoded,
            file_bytes=len(file.getvalue()),
            encoding_seconds=coded - started,
            decoding_seconds=time.perf_counter() - coded,
        )

    return trip


def bundled_coder(name: str) -> Coder:
    """A codec that comes with Obverse."""
    import obverse

    codec = obverse.load(name)

    def trip(pixels: np.ndarray, quality: str) -> Trip:
        started = time.perf_counter()
        stream = codec.compress(pixels, quality=int(quality))
        coded = time.perf_counter()
        decoded = np.array(codec.decompress(stream))
        ended = time.perf_counter()
        return Trip(
            pixels=decoded, file_bytes=len(stream), encoding_seconds=coded - started, decoding_seconds=ended - coded
        )

    return trip


def measure(reference: np.ndarray, decoded: np.ndarray) -> dict[str, float | None]:
    difference = reference.astype(np.float64) - decoded
    error = float(np.square(difference).mean())
    return {
        "psnr-rgb": 10 * float(np.log10(255**2 / error)) if error else None,
        "mae": float(np.abs(difference).mean()),
    }


def make(
    folder: Path,
    *,
    images: Mapping[str, np.ndarray] | None = None,
    codecs: Mapping[str, tuple[Coder, list[str]]] | None = None,
    subjects: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write a results folder.

    Args:
        folder: where to.
        images: by file name; three small ones by default.
        codecs: coder and qualities, the smallest file first, by name; JPEG and WebP by default.
        subjects: what is told about codecs beside the defaults, by name.
    """
    if images is None:
        images = {f"image{number}.png": picture(number) for number in range(1, 4)}
    if codecs is None:
        codecs = {"jpeg": (pillow_coder("jpeg"), ["5", "20", "60"]), "webp": (pillow_coder("webp"), ["5", "50"])}
    pictures = folder / "pictures"
    (pictures / "reference").mkdir(parents=True)
    for name, pixels in images.items():
        Image.fromarray(pixels).save(pictures / "reference" / f"{Path(name).stem}.png")
    samples: list[Sample] = []
    for codec, (trip, qualities) in codecs.items():
        own = [_sample(folder, codec, trip, quality, name, images[name]) for quality in qualities for name in images]
        samples += own
        (folder / f"{codec}.json").write_text(json.dumps(_averages(codec, qualities, own)), encoding="utf-8")
    lines = [json.dumps(vars(sample)) for sample in samples]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = {
        name: {
            "fingerprint": hashlib.sha256(name.encode()).hexdigest(),
            "qualities": qualities,
            "describe": {"name": name, "versions": {"pillow": "13.0.0"}, "chroma": "4:2:0"},
            "parameters": None,
            "codebook": None,
            "tokens": None,
            "licence": None,
            **(subjects or {}).get(name, {}),
        }
        for name, (_, qualities) in codecs.items()
    }
    run = {
        "schema": 1,
        "dataset": {"name": "waves", "count": len(images), "hash": "0" * 64, "root": "waves"},
        "protocol": {"name": "full"},
        "metrics": METRICS,
        "subjects": told,
        "skipped": [{"what": "lpips-alex", "reason": "no weights; name them with OBVERSE_LPIPS"}],
        "environment": {"torch": "2.13", "platform": "Linux x86_64", "cpu": "two cores", "threads": 1},
    }
    (folder / "run.json").write_text(json.dumps(run, indent=1), encoding="utf-8")
    return folder


def _sample(folder: Path, codec: str, trip: Coder, quality: str, name: str, pixels: np.ndarray) -> Sample:
    coded = trip(pixels, quality)
    kept = Path("pictures", codec, quality, f"{Path(name).stem}.png")
    (folder / kept).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coded.pixels).save(folder / kept)
    height, width, _ = pixels.shape
    rate = 8 / (height * width)
    return Sample(
        key=hashlib.sha256(f"{codec} {quality} {name}".encode()).hexdigest(),
        filename=name,
        image=hashlib.sha256(pixels.tobytes()).hexdigest(),
        width=width,
        height=height,
        codec=codec,
        fingerprint=hashlib.sha256(codec.encode()).hexdigest(),
        quality=quality,
        protocol="full",
        bytes=coded.file_bytes,
        bpp=coded.file_bytes * rate,
        bpp_payload=coded.payload_bytes and coded.payload_bytes * rate,
        times={
            "encoding": coded.encoding_seconds,
            "decoding": coded.decoding_seconds,
            "coder_encoding": coded.coder_encoding_seconds,
            "coder_decoding": coded.coder_decoding_seconds,
        },
        metrics=measure(pixels, coded.pixels),
        picture=kept.as_posix(),
    )


def _averages(codec: str, qualities: list[str], samples: list[Sample]) -> dict[str, Any]:
    def means(value: Callable[[Sample], float | None]) -> list[float | None]:
        found = [[value(sample) for sample in samples if sample.quality == quality] for quality in qualities]
        known = [[number for number in numbers if number is not None] for numbers in found]
        return [sum(numbers) / len(numbers) if numbers else None for numbers in known]

    results = {"bpp": means(lambda sample: sample.bpp)}
    for name in METRICS:
        results[name] = means(lambda sample, name=name: sample.metrics[name])  # type: ignore[misc]
    for name in ("encoding", "decoding"):
        results[f"{name}_time"] = means(lambda sample, name=name: sample.times[name])  # type: ignore[misc]
    return {"name": codec, "description": "", "meta": {"qualities": qualities}, "results": results}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    words = parser.parse_args()
    pixels = {path.name: np.array(ImageOps.fit(Image.open(path).convert("RGB"), (512, 512))) for path in words.images}
    make(
        words.folder,
        images=pixels,
        codecs={
            "pocket-vq": (bundled_coder("pocket-vq"), ["1"]),
            "pocket-hyper": (bundled_coder("pocket-hyper"), ["1", "3", "5", "8"]),
            "jpeg": (pillow_coder("jpeg", optimize=True, progressive=True), ["1", "5", "12", "26", "55"]),
            "webp": (pillow_coder("webp", method=6), ["0", "3", "10", "30", "60"]),
        },
        subjects={
            "pocket-vq": {"parameters": 1_000_000, "codebook": 512, "tokens": 1024, "licence": "Apache-2.0"},
            "pocket-hyper": {"parameters": 1_500_000, "licence": "Apache-2.0"},
        },
    )

"""Rate and quality of the bundled codecs on a folder of images, beside JPEG, WebP and AVIF at the nearest rates.

    pip install -e .[eval]
    python benchmarks/kodak.py KODAK_FOLDER --lpips lpips_alex.safetensors --out kodak.json

Images are cut to their central 512x512. bpp counts the whole file; PSNR is over 8-bit RGB; MS-SSIM is
pytorch-msssim's; LPIPS is v0.1 with AlexNet. Means are of the images' values. For each point of a learned codec the
classical ones are run at the quality whose mean rate is nearest; where the lowest rate they reach is above it, that
one is shown.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

import obverse
from obverse.images import IMAGE_SUFFIXES, read_image
from obverse.nn.lpips import LPIPS
from obverse.pixels import psnr

CLASSICAL: dict[str, tuple[range, dict[str, object]]] = {
    "JPEG": (range(1, 96), {"optimize": True, "progressive": True}),
    "WEBP": (range(0, 101), {"method": 6}),
    "AVIF": (range(0, 101), {"speed": 6}),
}


def centre(image: np.ndarray, side: int) -> np.ndarray:
    """The central square of an image."""
    top, left = ((size - side) // 2 for size in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def classical(name: str, quality: int, image: np.ndarray) -> tuple[bytes, np.ndarray]:
    """A file of one of Pillow's codecs, and what it decodes to."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, name, quality=quality, **CLASSICAL[name][1])
    return file.getvalue(), np.asarray(Image.open(file).convert("RGB"))


class Metrics:
    """Scores of one decoded image."""

    def __init__(self, lpips: Path | None) -> None:
        self.lpips = LPIPS.load(lpips) if lpips else None

    @torch.inference_mode()
    def __call__(self, original: np.ndarray, decoded: np.ndarray, size: int) -> dict[str, float]:
        from pytorch_msssim import ms_ssim

        a, b = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None].float() for x in (original, decoded))
        scores = {
            "bpp": 8 * size / (original.shape[0] * original.shape[1]),
            "psnr-rgb": psnr(original, decoded),
            "ms-ssim-rgb": float(ms_ssim(a, b, data_range=255)),
        }
        if self.lpips:
            scores["lpips-alex"] = float(self.lpips(a / 255, b / 255))
        return scores


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means of the images' values."""
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def nearest_quality(name: str, images: list[np.ndarray], bpp: float, rates: dict[tuple[str, int], float]) -> int:
    """The quality whose mean rate is nearest, by bisection (rates grow with quality); `rates` keeps what it sees."""

    def rate(quality: int) -> float:
        if (name, quality) not in rates:
            sizes = [8 * len(classical(name, quality, i)[0]) / i[..., 0].size for i in images]
            rates[name, quality] = float(np.mean(sizes))
        return rates[name, quality]

    low, high = CLASSICAL[name][0][0], CLASSICAL[name][0][-1]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if rate(middle) < bpp else (low, middle)
    return min((low, high), key=lambda quality: abs(rate(quality) - bpp))


def measure(
    label: str, images: list[np.ndarray], metrics: Metrics, code: Callable[[np.ndarray], tuple[bytes, np.ndarray]]
) -> dict[str, float]:
    """Mean scores of a codec over all images."""
    rows = []
    for image in track(images, label, console=Console(stderr=True), transient=True):
        data, decoded = code(image)
        rows.append(metrics(image, decoded, len(data)))
    return mean(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codec", action="append", help="by default pocket-vq and pocket-hyper")
    parser.add_argument("--lpips", type=Path, help="LPIPS-alex weights (safetensors)")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--no-classical", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    files = sorted(p for p in options.folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)[: options.limit]
    images = [centre(read_image(file).pixels, options.side) for file in files]
    metrics = Metrics(options.lpips)
    points: list[dict[str, object]] = []
    rates: dict[tuple[str, int], float] = {}

    def record(codec: str, quality: int, scores: dict[str, float]) -> None:
        points.append({"codec": codec, "quality": quality, **scores})

    for name in options.codec or ["pocket-vq", "pocket-hyper"]:
        codec = obverse.load(name)
        for quality in range(1, codec.qualities + 1):

            def learned(
                image: np.ndarray, codec: obverse.Codec = codec, quality: int = quality
            ) -> tuple[bytes, np.ndarray]:
                result = codec.reconstruct(image, quality=quality)
                return result.data, np.asarray(result.image)

            scores = measure(f"{name} -q {quality}", images, metrics, learned)
            record(name, quality, scores)
            for other in [] if options.no_classical else CLASSICAL:
                best = nearest_quality(other, images, scores["bpp"], rates)
                if not any(p["codec"] == other and p["quality"] == best for p in points):
                    made = measure(other, images, metrics, lambda i, o=other, q=best: classical(o, q, i))
                    record(other, best, made)
    table = Table(*points[0], title=f"{len(images)} images, central {options.side}x{options.side}")
    for point in points:
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in point.values()))
    Console(width=120).print(table)
    if options.out:
        options.out.write_text(json.dumps({"images": len(images), "side": options.side, "points": points}, indent=2))


if __name__ == "__main__":
    main()

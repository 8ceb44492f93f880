"""Seconds of compress and decompress, with the networks and the entropy coding apart.

    python benchmarks/coding_time.py IMAGE [--side 512] [--threads 1] [--repeat 5]

The image is cut to its central square. Entropy coding is everything from integer logits or table indices to bytes;
the networks are the rest. Times are of a loaded codec, one image at a time, the median after one warm-up.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

import obverse
from obverse.coding_clock import coding_clock
from obverse.images import read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pixels = read_image(options.image).pixels
    top, left = ((size - options.side) // 2 for size in pixels.shape[:2])
    pixels = pixels[top : top + options.side, left : left + options.side].copy()
    table = Table("codec", "bytes", "step", "total s", "networks s", "entropy coding s")
    for name in ("pocket-vq", "pocket-hyper"):
        codec = obverse.load(name)
        data = codec.compress(pixels)
        codec.decompress(data)
        for step in ("compress", "decompress"):
            totals, coding = [], []
            for _ in range(options.repeat):
                start = time.perf_counter()
                with coding_clock() as clock:
                    _ = codec.compress(pixels) if step == "compress" else codec.decompress(data)
                totals.append(time.perf_counter() - start)
                coding.append(clock.seconds)
            networks = median(t - c for t, c in zip(totals, coding, strict=True))
            table.add_row(
                name, str(len(data)), step, f"{median(totals):.3f}", f"{networks:.3f}", f"{median(coding):.3f}"
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

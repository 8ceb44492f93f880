"""Memory peak and time of a large photo, each step in a process of its own.

    python benchmarks/large_photo.py IMAGE [--width 4000 --height 3000]

The image is enlarged to the size asked for. The peak is the child's maximum resident set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table


def child(*words: str) -> tuple[float, float]:
    """Seconds and peak memory in GiB of `obverse WORDS`."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "obverse", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"obverse {' '.join(words)} failed with status {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--height", type=int, default=3000)
    options = parser.parse_args()
    table = Table("codec", "step", "seconds", "peak GiB", "bytes")
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        size = options.width, options.height
        Image.open(options.image).convert("RGB").resize(size, Image.Resampling.BICUBIC).save(photo, compress_level=1)
        for codec in ("pocket-vq", "pocket-hyper"):
            stream, decoded = Path(folder) / f"{codec}.obv", Path(folder) / f"{codec}.png"
            for step, words in (
                ("compress", ("compress", "-m", codec, str(photo), str(stream))),
                ("decompress", ("decompress", str(stream), str(decoded))),
            ):
                seconds, peak = child(*words)
                table.add_row(codec, step, f"{seconds:.1f}", f"{peak:.2f}", str(stream.stat().st_size))
            with Image.open(decoded) as picture:
                assert picture.size == size
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

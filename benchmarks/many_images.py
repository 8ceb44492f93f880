"""Images per second of `obverse compress` over many small images, shared by several processes.

    python benchmarks/many_images.py IMAGES [--count 1000] [--processes 2] [--codec pocket-hyper] [--out FOLDER]

Cuts random crops of 64x64 to 128x128 pixels from the images of a folder, compresses them with one command in several
processes of one thread each, checks the manifest, and gives the command again with --resume, to see what it costs to
find that everything is done. Rates per core are per second of processor time, so that they mean the same on a machine
that does other things as well. Without --out all goes to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from obverse.evaluation.dataset import find_images
from obverse.images import write_image

SMALLEST, LARGEST = 64, 128


def make_crops(source: Path, folder: Path, count: int) -> int:
    """Write crops as PNG files, the same ones each time; returns their pixels in all."""
    images = find_images(source)
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    total = number = 0
    while number < count:
        pixels = images.read(images.files[number % len(images.files)])
        for _ in range(min(16, count - number)):
            height, width = generator.integers(SMALLEST, LARGEST + 1, 2)
            top = generator.integers(0, pixels.shape[0] - height + 1)
            left = generator.integers(0, pixels.shape[1] - width + 1)
            crop = np.ascontiguousarray(pixels[top : top + height, left : left + width])
            write_image(folder / f"{number:06}.png", crop, force=True)
            total, number = total + height * width, number + 1
    return int(total)


def timed(words: list[str], processes: int) -> tuple[float, float]:
    """Seconds of a command in several processes, their start counted, on the clock and of processors."""
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launch, "-m", "obverse", *words]
    start, before = time.perf_counter(), processor_seconds()
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, processor_seconds() - before


def processor_seconds() -> float:
    """Of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--codec", default="pocket-hyper")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        crops, out = folder / "crops", folder / "streams"
        pixels = make_crops(options.images, crops, options.count)
        words = ["compress", str(crops), "-m", options.codec, "-d", str(out), "--resume"]
        words += ["--manifest", str(out / "manifest.jsonl")]
        table = Table("step", "seconds", "CPU seconds", "images/s", "images/s per core", "megapixels/s per core")
        for step in ("compress", "resume, all done"):
            seconds, used = timed(words, options.processes)
            rates = (options.count / seconds, options.count / used, pixels / 1e6 / used)
            table.add_row(step, f"{seconds:.1f}", f"{used:.1f}", *(f"{rate:.2f}" for rate in rates))
        entries = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
        assert len({entry["input"] for entry in entries}) == len(entries) == options.count
        coding = sum(entry["seconds"] for entry in entries)
        size = sum(entry["bytes"] for entry in entries)
        Console(width=110).print(table)
        print(f"{options.count} images, {size} bytes, {8 * size / pixels:.4f} bpp; {coding:.1f} s of it in the codec")


if __name__ == "__main__":
    main()

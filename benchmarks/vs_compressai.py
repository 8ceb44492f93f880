"""Time of compress and decompress beside CompressAI's, with the same random weights and the same images.

    python benchmarks/compressai_env.py
    python benchmarks/vs_compressai.py KODAK_FOLDER [--model mbt2018-mean] [--images 1] [--repeat 3] [--threads 1 2]
    python benchmarks/vs_compressai.py KODAK_FOLDER --mismatch

Both sides run one after the other, in turn; the least time of each counts, and the ratios are theirs to ours. Whole
means from pixels to bytes and back: ours with the header, checksums and 8-bit pictures, in numerics mode exact.
Coding is what happens between the networks: from scales and symbols to bytes, and back. With one thread times are of
the processor, which other programs disturb less; with more they are of the clock on the wall.

`--mismatch` encodes with one thread and oneDNN, and decodes with two threads, or without oneDNN. A decode is wrong
when some latent differs by more than one half (theirs, which have no checksum), or when it is refused (ours).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressai_env import FOLDER, Peer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import obverse
from obverse.coders.range import RangeDecoder, RangeEncoder
from obverse.distributions import ScaleTable
from obverse.errors import StreamError
from obverse.images import IMAGE_SUFFIXES, read_image


@dataclass(frozen=True)
class Model:
    """A model of both sides.

    Args:
        name: of our codec and of the worker's architecture.
        arguments: of the worker's architecture.
        quality: of our codec with the same sizes.
        typical: median spread of y, for about 1 bpp.
        crop: side of the central square that is coded with `--mismatch`; None for the whole image.
    """

    name: str
    arguments: Sequence[int]
    quality: int | None
    typical: float
    crop: int | None = None


MODELS = (
    Model("bmshj2018-factorized", (128, 192), 4, 0.2),
    Model("bmshj2018-hyperprior", (128, 192), 4, 0.3),
    Model("mbt2018-mean", (128, 192), 4, 0.3),
    Model("mbt2018", (192, 192), 4, 0.3, crop=256),
    Model("elic", (192, 320), None, 0.05, crop=256),
)
MISMATCHED = ("bmshj2018-hyperprior", "elic", "mbt2018")


class Stopwatch:
    """Seconds between the networks: scales to table indices, and everything inside the coder."""

    def __init__(self) -> None:
        self.seconds, self.clock = 0.0, time.perf_counter
        for owner, names in ((RangeEncoder, ("put", "finish")), (RangeDecoder, ("__init__", "take"))):
            for name in names:
                setattr(owner, name, self._watched(getattr(owner, name)))
        ScaleTable.index = staticmethod(self._watched(ScaleTable.index))  # type: ignore[method-assign]

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            start = self.clock()
            try:
                return function(*arguments)
            finally:
                self.seconds += self.clock() - start

        return run

    def time(self, function: Callable[[], Any]) -> tuple[float, float, Any]:
        """Seconds in all, in the coder, and the result."""
        self.seconds, start = 0.0, self.clock()
        result = function()
        return self.clock() - start, self.seconds, result


@contextmanager
def settings(threads: int, mkldnn: bool = True) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.backends.mkldnn.flags(enabled=mkldnn):
            yield
    finally:
        torch.set_num_threads(before)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """[1, 3, H, W] in 0…1."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def centre(pixels: np.ndarray, side: int | None) -> np.ndarray:
    """The central square, or all."""
    if side is None:
        return pixels
    top, left = ((size - side) // 2 for size in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def prepared(peer: Peer, model: Model, pixels: np.ndarray, folder: Path) -> tuple[dict[str, Tensor], obverse.Codec]:
    """Their weights, and our codec with them."""
    weights = peer.ask(
        "make",
        architecture=model.name,
        arguments=list(model.arguments),
        seed=0,
        image=as_tensor(pixels),
        typical=model.typical,
    )["weights"]
    file = folder / f"{model.name}.pth.tar"
    torch.save(weights, file)
    return weights, obverse.load(model.name, quality=model.quality, weights=[file])


STEPS = ("compress", "decompress", "compress_coding", "decompress_coding")


def race(
    peer: Peer, model: Model, images: Sequence[np.ndarray], folder: Path, threads: int, repeat: int, watch: Stopwatch
) -> dict[str, Any]:
    """Least seconds per image of both sides, summed over the images, by step."""
    weights, codec = prepared(peer, model, images[0], folder)
    clock = "process_time" if threads == 1 else "perf_counter"
    watch.clock = getattr(time, clock)
    peer_arguments = {
        "architecture": model.name,
        "arguments": list(model.arguments),
        "threads": threads,
        "clock": clock,
        "estimate": False,
    }
    seconds = {side: dict.fromkeys(STEPS, 0.0) for side in ("ours", "theirs")}
    size = {"ours": 0, "theirs": 0}
    with settings(threads):
        codec.decompress(codec.compress(images[0]))
    peer.ask("code", image=as_tensor(images[0]), weights=weights, **peer_arguments)
    for pixels in images:
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
        for _ in range(repeat):
            theirs = peer.ask("code", image=as_tensor(pixels), weights=None, **peer_arguments)
            runs["theirs"].append({step: theirs[step][0] for step in STEPS})
            with settings(threads):
                whole, coding, data = watch.time(lambda pixels=pixels: codec.compress(pixels))  # type: ignore[misc]
                back, coding_back, _ = watch.time(lambda data=data: codec.decompress(data))  # type: ignore[misc]
            runs["ours"].append(dict(zip(STEPS, (whole, back, coding, coding_back), strict=True)))
        size["ours"] += len(data)
        size["theirs"] += theirs["bytes"]
        for side, found in runs.items():
            for step in STEPS:
                seconds[side][step] += min(run[step] for run in found) / len(images)
    return {"model": model.name, "threads": threads, "bytes": size, **seconds}


def mismatch(peer: Peer, model: Model, images: Sequence[np.ndarray], folder: Path) -> dict[str, Any]:
    """Wrong decodes of both sides with other settings than the encoder's."""
    weights, codec = prepared(peer, model, images[0], folder)
    found: dict[str, Any] = {"model": model.name, "images": len(images)}
    for label, threads, mkldnn in (("2 threads", 2, True), ("without oneDNN", 1, False)):
        wrong = {"ours": 0, "theirs": 0}
        for pixels in (centre(image, model.crop) for image in images):
            theirs = peer.ask(
                "code",
                architecture=model.name,
                arguments=list(model.arguments),
                weights=weights,
                image=as_tensor(pixels),
                decode_threads=threads,
                decode_mkldnn=mkldnn,
                estimate=False,
            )
            difference = (theirs["y_hat"] - theirs["sent"]).abs().max()
            wrong["theirs"] += not bool(difference <= 0.5)
            with settings(1):
                data = codec.compress(pixels)
            with settings(threads, mkldnn):
                try:
                    codec.decompress(data)
                except StreamError:
                    wrong["ours"] += 1
        found[label] = wrong
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", choices=[model.name for model in MODELS])
    parser.add_argument("--images", type=int, help="how many; by default 1 for times, all with --mismatch")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--mismatch", action="store_true")
    parser.add_argument("--environment", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    files = sorted(path for path in options.folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    images = [read_image(file).pixels for file in files[: options.images or (None if options.mismatch else 1)]]
    chosen = options.model or (MISMATCHED if options.mismatch else [model.name for model in MODELS])
    rows: list[dict[str, Any]] = []
    watch, console = Stopwatch(), Console(width=120)
    with tempfile.TemporaryDirectory() as folder, Peer(options.environment) as peer:
        for model in (model for model in MODELS if model.name in chosen):
            if options.mismatch:
                rows.append(mismatch(peer, model, images, Path(folder)))
                console.print(rows[-1])
                continue
            for threads in options.threads:
                rows.append(race(peer, model, images, Path(folder), threads, options.repeat, watch))
                table = Table("step", "ours s", "theirs s", "theirs / ours", title=f"{model.name}, {threads} threads")
                for step in STEPS:
                    ours, theirs = rows[-1]["ours"][step], rows[-1]["theirs"][step]
                    table.add_row(step.replace("_", ", "), f"{ours:.4f}", f"{theirs:.4f}", f"{theirs / ours:.2f}")
                console.print(table, rows[-1]["bytes"])
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()

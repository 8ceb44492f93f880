"""A codec and metrics for tests of evaluation: quick, without torch, and they count how often they are asked."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from obverse.errors import UnsupportedInputError
from obverse.evaluation.interfaces import Metric, SetMetric, Subject, TokenMetric, Trip
from obverse_registry import Component, hookimpl, registry

calls: list[tuple[str, ...]] = []
"""What was asked, in this process."""


class Levels(Subject):
    """Pixels rounded to a number of levels, deflated. `DELAY` seconds make it slow in a process of its own."""

    name = "levels"
    qualities: Sequence[Any] = (2, 4, 16)
    version = "1"

    @property
    def fingerprint(self) -> str:
        return f"levels{self.version}"

    def describe(self) -> Mapping[str, Any]:
        return {"versions": {"levels": self.version}, "licence": "MIT"}

    def trip(self, pixels: np.ndarray, quality: int) -> Trip:
        calls.append(("trip", str(quality)))
        time.sleep(float(os.environ.get("DELAY", "0")))
        if pixels.max() == 0:
            raise UnsupportedInputError("all is black")
        step = 256 // quality
        symbols = pixels // step
        data = zlib.compress(symbols.tobytes())
        return Trip(symbols * step + step // 2, len(data), len(data) - 6, encoding_seconds=0.25, decoding_seconds=0.5)


class Absent(Levels):
    """A codec that cannot run."""

    name = "absent"

    def missing(self) -> str | None:
        return "the program absentenc is not installed"


class MeanError(Metric):
    """Mean absolute error; not defined for one colour."""

    name = "mean-error"
    direction = "lower"
    range: ClassVar = (0, 255)

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    @property
    def version(self) -> str:
        return "toys 1"

    def measure(self, reference: np.ndarray, decoded: np.ndarray) -> float | None:
        calls.append(("mean-error",))
        if reference.std() == 0:
            return float("inf")
        return self.scale * float(np.abs(reference.astype(int) - decoded).mean())


class Brightness(Metric):
    """Mean of the decoded picture."""

    name = "brightness"
    direction = "higher"
    needs_reference = False

    def measure(self, reference: np.ndarray, decoded: np.ndarray) -> float | None:
        calls.append(("brightness",))
        return float(decoded.mean())


class Lacking(Brightness):
    """A metric that cannot run."""

    name = "lacking"

    def missing(self) -> str | None:
        return "weights are missing: --metric-option lacking.weights=FILE"


class ColourShift(SetMetric):
    """Distance of the mean colours of two sets."""

    name = "colour-shift"
    direction = "lower"

    def features(self, pixels: np.ndarray) -> Mapping[str, np.ndarray]:
        calls.append(("features",))
        return {"mean": pixels.reshape(-1, 3).mean(0, dtype=np.float64, keepdims=True).astype(np.float32)}

    def compute(
        self, reference: Sequence[Mapping[str, np.ndarray]], decoded: Sequence[Mapping[str, np.ndarray]]
    ) -> float | None:
        means = [np.concatenate([row["mean"] for row in rows]).mean(0) for rows in (reference, decoded)]
        return float(np.abs(means[0] - means[1]).sum())


class Tokens(Levels):
    """A codec with a codebook: its levels are tokens."""

    name = "tokens"

    def trip(self, pixels: np.ndarray, quality: int) -> Trip:
        trip = super().trip(pixels, quality)
        counts = np.bincount((trip.pixels // (256 // quality)).reshape(-1), minlength=quality)
        return replace(trip, token_counts={"tokens": counts})


class TokenCount(TokenMetric):
    """How many tokens a set has."""

    name = "token-count"
    direction = "lower"

    def compute(self, counts: np.ndarray) -> float:
        return float(counts.sum())


def components() -> list[Component]:
    found = [("anchor", kind) for kind in (Levels, Absent)]
    found += [("metric", kind) for kind in (MeanError, Brightness, Lacking, ColourShift)]
    return [Component(kind, target.name, f"{__name__}:{target.__name__}") for kind, target in found]


class Plugin:
    """A plugin of this process."""

    @hookimpl
    def obverse_components(self) -> list[Component]:
        return components()


@contextmanager
def installed() -> Iterator[None]:
    """Make them findable by name in this process."""
    registry().add(Plugin(), "toy-evaluation")
    calls.clear()
    try:
        yield
    finally:
        registry().remove("toy-evaluation")


def install(site: Path) -> dict[str, str]:
    """Make them findable in processes; returns the environment that these need."""
    metadata = site / "toy_evaluation-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-evaluation\nVersion: 1.0\n")
    (site / "toy_evaluation_plugin.py").write_text(
        "from obverse_registry import hookimpl\n\n@hookimpl\ndef obverse_components():\n"
        "    import toy_evaluation\n    return toy_evaluation.components()\n"
    )
    (metadata / "entry_points.txt").write_text("[obverse]\ntoy-evaluation = toy_evaluation_plugin\n")
    path = os.pathsep.join([str(site), str(Path(__file__).parent)])
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OBVERSE")}
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def write_images(folder: Path, count: int, side: int = 24) -> Path:
    """Write pictures `00.png` and so on, some of them in a folder within."""
    for number in range(count):
        name = f"{number:02}.png" if number % 3 else f"more/{number:02}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (side, side + number % 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder

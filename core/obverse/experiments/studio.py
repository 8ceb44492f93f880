"""Where the pictures of a generation experiment are drawn, and put together."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from obverse.__about__ import __version__
from obverse.codec import Codec, from_config
from obverse.config import CodecConfig
from obverse.errors import ObverseError
from obverse.experiments.generation import Row
from obverse.experiments.recipe import Setting, codec_config
from obverse.files import make_folder, write_beside
from obverse.images import read_image, write_image
from obverse.ledger import Ledger
from obverse.sheets import SheetRow, labelled

PICTURES = "pictures"
"""Folder of the single pictures, in that of the results."""


class Studio:
    """Draws rows one after the other, and remembers what came of them.

    Args:
        base: folder that paths of rows are relative to.
        size: of the pictures, width and height in pixels.
        setting: of the run.
    """

    def __init__(self, base: Path, size: tuple[int, int], setting: Setting) -> None:
        self.base, self.size, self.setting = base, size, setting
        self.rows: list[SheetRow] = []
        self.drawn: list[dict[str, Any]] = []
        self.missing: list[dict[str, Any]] = []
        self._last: tuple[tuple[str, str | None], Codec] | None = None
        make_folder(setting.folder / PICTURES)

    def draw(self, number: int, row: Row) -> None:
        """Draw the pictures of a row and write each to a file.

        Args:
            number: of the row, from 1.
            row: what to draw.

        Raises:
            UnknownNameError, PluginError, WeightsError: the codec or its weights are not here.
            ConfigError: the codec does not have what the row asks for.
        """
        codec = self._codec(row)
        condition = codec.condition(row.quality, row.label, row.guidance)
        quality = codec.config.quality if codec.config.qualities else condition.quality + 1
        known = None if row.image is None else self._fitted(self.base / row.image)
        shown = []
        if known is not None:
            self._write(f"{number:02d}-image.png", known)
            shown.append(("the picture", Image.fromarray(known)))
        for seed in row.seeds:
            ledger, start = Ledger(), time.perf_counter()
            (picture,) = codec.generate(
                seed=seed, size=self.size, quality=row.quality, label=row.label, guidance=row.guidance,
                temperature=row.temperature, top_k=row.top_k, top_p=row.top_p, known=known, keep=row.keep,
                ledger=ledger,
            )  # fmt: skip
            seconds = time.perf_counter() - start
            name = self._write(f"{number:02d}-{codec.name}-q{quality}-seed{seed}.png", np.asarray(picture))
            shown.append((f"seed {seed}", picture))
            self.drawn.append(
                {
                    "row": number, "picture": name, "codec": codec.name, "fingerprint": codec.fingerprint.hex(),
                    "quality": quality, "numerics": codec.numerics, "seed": seed, "temperature": row.temperature,
                    "top_k": row.top_k, "top_p": row.top_p, "class": row.label, "guidance": row.guidance,
                    "image": row.image, "keep": row.keep, "bits": _bits(ledger, row.keep),
                    "seconds": round(seconds, 3), "source": _source(codec.config),
                }
            )  # fmt: skip
        self.rows.append(SheetRow(str(row), shown))

    def leave_out(self, number: int, row: Row, error: ObverseError) -> str:
        """Note that a row cannot be drawn; returns one line about it."""
        reason = " ".join(str(error).split())
        self.missing.append({"row": number, "codec": row.codec, "quality": row.quality, "missing": reason})
        self.rows.append(SheetRow(str(row), [], f"missing: {reason}"))
        return f"row {number} is missing: {reason}"

    def write_sheet(self, path: Path) -> None:
        """All rows in one picture."""
        write_image(path, np.asarray(labelled(self.rows, self.size)), force=self.setting.force)

    def write_report(self, path: Path, about: Mapping[str, Any], described: str) -> None:
        """Everything about every picture, as JSON.

        Args:
            path: where to.
            about: keys to begin with.
            described: where the experiment is described.
        """
        source = {
            "experiment": described, "obverse": __version__, "torch": torch.__version__, "device": self.setting.device
        }  # fmt: skip
        report = {**about, "source": source, "pictures": self.drawn, "missing": self.missing}
        write_beside(path, (json.dumps(report, indent=2) + "\n").encode(), self.setting.force)

    def _codec(self, row: Row) -> Codec:
        """The codec of a row; the last one is kept, as rows of one codec follow each other."""
        weights = [str(self.base / file) if "://" not in file else file for file in row.weights]
        config = codec_config(row.codec, row.quality, weights, self.setting)
        key = config.to_yaml(), row.numerics
        if self._last is None or self._last[0] != key:
            self._last = None  # makes room first
            self._last = key, from_config(config, self.setting.device, row.numerics)
        return self._last[1]

    def _fitted(self, path: Path) -> np.ndarray:
        """The middle of a picture, [height, width, 3] uint8."""
        picture = Image.fromarray(read_image(path).pixels)
        return np.asarray(ImageOps.fit(picture, self.size, Image.Resampling.LANCZOS))

    def _write(self, name: str, pixels: np.ndarray) -> str:
        """Write a picture; returns its path in the folder of the results."""
        write_image(self.setting.folder / PICTURES / name, pixels, force=self.setting.force)
        return f"{PICTURES}/{name}"


def _bits(ledger: Ledger, keep: int | str | Sequence[str] | None) -> dict[str, dict[str, float]]:
    """Ideal bits by array, of those that were kept and of those that were drawn."""
    bits = {name: round(bits, 1) for name, bits in ledger.bits.items()}
    named = [keep] if isinstance(keep, str) else list(bits)[:keep] if isinstance(keep, int) else list(keep or ())
    return {
        "kept": {name: value for name, value in bits.items() if name in named},
        "drawn": {name: value for name, value in bits.items() if name not in named},
    }


def _source(config: CodecConfig) -> dict[str, Any]:
    """Where the weights come from."""
    return {"weights": [getattr(file, "name", str(file)) for file in config.weights], "official": config.source}

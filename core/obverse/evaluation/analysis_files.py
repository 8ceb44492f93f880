"""The analyses of a results folder as files: figures, strips of pictures, tables and data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from obverse.evaluation import analyses, figures, paper
from obverse.evaluation.curves import folder_curves, metrics
from obverse.evaluation.reading import read_folder
from obverse.evaluation.tables import markdown
from obverse.files import check_output, make_folder, write_beside
from obverse.images import read_image, write_image
from obverse.sheets import SheetRow, labelled

TABLES, DATA = "tables.md", "analyses.json"

_COLUMNS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "models": (
        "Models",
        {
            "codec": "codec", "qualities": "qualities|d", "parameters": "parameters|M",
            "tokenizer_parameters": "of the tokenizer|M", "codebook": "codebook|d", "tokens": "tokens|d",
            "scales": "scales|d", "modelling": "modelling", "condition": "condition", "licence": "licence",
            "source": "source",
        },
    ),
    "ratios": (
        "Compression ratios",
        {
            "codec": "codec", "quality": "quality", "bpp_fixed": "bpp, fixed-length|.4f", "bpp_coded": "bpp, coded|.4f",
            "tokenizer": "tokenizer|.1f", "prior": "prior|.3f", "overall": "overall|.1f", "coded": "counted",
            "images": "images|d", "source": "source",
        },
    ),
    "times": (
        "Seconds per image",
        {
            "codec": "codec", "quality": "quality", "encoding": "encoding|.3f", "encoding_network": "networks|.3f",
            "encoding_coder": "entropy coding|.4f", "decoding": "decoding|.3f", "decoding_network": "networks|.3f",
            "decoding_coder": "entropy coding|.4f", "images": "images|d", "source": "source",
        },
    ),
}  # fmt: skip
"""Titles and columns of the tables."""


def write_analyses(
    folder: Path, target: Path, *, with_paper: bool = False, bpp: float | None = None, force: bool = False
) -> list[Path]:
    """Write all analyses of a results folder.

    Args:
        folder: that `obverse eval` wrote.
        target: folder for `rd-METRIC.png`, `ratios.png`, `strips/IMAGE.png`, `tables.md` and `analyses.json`.
        with_paper: published numbers stand beside those of the folder.
        bpp: strips show of each codec the picture nearest to this rate; None: all.
        force: overwrite files that exist.

    Returns:
        The files, in this order.

    Raises:
        UnsupportedInputError: the folder holds no results.
        OutputExistsError: files exist and `force` is not given.
        PluginError: matplotlib is not installed.
    """
    results = read_folder(folder)
    data: dict[str, Any] = {
        "models": analyses.model_table(folder, paper=with_paper),
        "ratios": analyses.ratio_split(folder, paper=with_paper),
        "times": analyses.coding_times(folder, paper=with_paper),
    }
    pictures = {target / f"rd-{name}.png": figures.rd_figure(folder_curves(results, name)) for name in metrics(results)}
    if data["ratios"]:
        band = paper.overall_ratio() if with_paper else None
        pictures[target / "ratios.png"] = figures.ratio_figure(data["ratios"], band)
    strips = {target / "strips" / _flat(strip["filename"]): strip for strip in analyses.strips(folder)}
    outputs = [*pictures, *strips, target / TABLES, target / DATA]
    for path in outputs:
        check_output(path, force, new_folder=True)
    make_folder(target / "strips" if strips else target)
    for path, figure in pictures.items():
        write_beside(path, figures.render(figure, ".png"), force)
    for path, strip in strips.items():
        write_image(path, strip_sheet(strip, bpp), force=force)
    text = "\n".join(f"## {title}\n\n{markdown(data[key], columns)}" for key, (title, columns) in _COLUMNS.items())
    write_beside(target / TABLES, text.encode(), force)
    data |= {"curves": analyses.rd_curves(folder)}
    write_beside(target / DATA, (json.dumps(data, indent=2) + "\n").encode(), force)
    return outputs


def strip_sheet(strip: Mapping[str, Any], bpp: float | None = None, columns: int = 4) -> np.ndarray:
    """The original and the decoded pictures of one image, with codec and rate under each.

    Args:
        strip: of `analyses.strips`.
        bpp: only the picture of each codec that is nearest to this rate.
        columns: pictures beside each other.

    Returns:
        [H, W, 3] uint8.
    """
    chosen = strip["pictures"] if bpp is None else _nearest(strip["pictures"], bpp)
    shown = [] if strip["reference"] is None else [("original", _picture(strip["reference"]))]
    shown += [(f"{one['codec']} {one['quality']}: {one['bpp']:.4f} bpp", _picture(one["path"])) for one in chosen]
    rows = [SheetRow("", shown[start : start + columns]) for start in range(0, len(shown), columns)]
    rows[0] = replace(rows[0], title=strip["filename"])
    return np.asarray(labelled(rows, (strip["width"], strip["height"])))


def _nearest(pictures: Sequence[Mapping[str, Any]], bpp: float) -> list[Mapping[str, Any]]:
    best: dict[str, Mapping[str, Any]] = {}
    for one in pictures:
        if one["codec"] not in best or abs(one["bpp"] - bpp) < abs(best[one["codec"]]["bpp"] - bpp):
            best[one["codec"]] = one
    return list(best.values())


def _picture(path: Path) -> Image.Image:
    return Image.fromarray(read_image(path).pixels)


def _flat(filename: str) -> str:
    """A file name for an image that may lie in a subfolder; the suffix stays, so that no two are one."""
    return f"{filename.replace('/', '-')}.png"

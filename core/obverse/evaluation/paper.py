"""Published numbers that stand beside measured ones, from `published.json`; never mixed with them: see `source`."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

PIXELS = 512 * 512
"""Of the pictures that the study codes."""


@cache
def _published() -> dict[str, Any]:
    body: dict[str, Any] = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    return body


def models() -> list[dict[str, Any]]:
    """Models of the study (its tables I and II), in the shape of `analyses.model_table`."""
    keys = ("tokens", "licence", "fingerprint", "codebook", "tokenizer", "tokenizer_parameters", "modelling", "scales")
    empty = dict.fromkeys((*keys, "condition", "qualities"))
    return [empty | row | {"source": "paper"} for row in _study()["models"]]


def times() -> list[dict[str, Any]]:
    """Coding seconds of the study (its table III), in the shape of `analyses.coding_times`."""
    parts = ("encoding_coder", "decoding_coder", "encoding_network", "decoding_network", "quality", "images")
    return [dict.fromkeys(parts) | row | {"source": "paper"} for row in _study()["times"]]


def ratios() -> list[dict[str, Any]]:
    """Tokenizer ratios that follow from the study's token counts, in the shape of `analyses.ratio_split`.

    The study prints none for single codecs, so rows have `derived`, and no overall ratio.
    """
    rows = []
    for told in _study()["derived"]["ratios"]:
        fixed = told["tokens"] * told["bits_per_token"]
        row = {"codec": told["codec"], "tokenizer": 24 * PIXELS / fixed, "bpp_fixed": fixed / PIXELS}
        empty = dict.fromkeys(("quality", "overall", "prior", "bpp_coded", "images", "coded"))
        rows.append(empty | row | {"derived": True, "source": "paper"})
    return rows


def overall_ratio() -> tuple[float, float]:
    """Smallest and largest overall compression ratio that the study reports (its figure 5)."""
    told = _study()["overall_ratio"]
    return told["low"], told["high"]


def tables() -> dict[str, list[dict[str, Any]]]:
    """Tables 1 to 3 of VFMTok, rows as dictionaries with `source`, by name."""
    return {
        name: [dict(zip(table["columns"], row, strict=True)) | {"source": "paper"} for row in table["rows"]]
        for name, table in _published()["vfmtok"].items()
        if name.startswith("table")
    }


def _study() -> dict[str, Any]:
    body: dict[str, Any] = _published()["vfm-codecs"]
    return body

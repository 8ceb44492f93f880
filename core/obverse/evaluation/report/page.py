"""The page: pieces of HTML, curves and pictures as data, the style sheet and the scripts, in one file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from obverse.evaluation import analyses
from obverse.evaluation.reading import read_folder
from obverse.evaluation.report.pictures import Embedded, embed
from obverse.evaluation.report.sections import notes, pieces

SCRIPTS = ("dom.js", "plot.js", "tables.js", "pictures.js", "start.js")
"""Parts of the one script, in this order."""

MEGABYTE = 10**6


@dataclass(frozen=True)
class Report:
    """A page and what it holds.

    Attributes:
        html: the page.
        images: number of images whose pictures are in it.
        left_out: which pictures are not, and why, one line each.
    """

    html: str
    images: int
    left_out: list[str]


def make_report(folder: Path, *, max_images: int = 8, max_mb: float = 20.0) -> Report:
    """The page of a results folder; the same folder gives the same page.

    Args:
        folder: that `obverse eval` wrote.
        max_images: number of images whose pictures are put into the page.
        max_mb: size in 10^6 bytes that pictures are compressed or left out to keep.

    Raises:
        UnsupportedInputError: the folder holds no results, or damaged ones.
    """
    html = pieces(read_folder(folder))
    curves = {name: told for name, told in analyses.rd_curves(folder).items() if told["curves"]}
    room = int(max_mb * MEGABYTE) - len(_page(html, curves, Embedded([], "", [])).encode())
    pictures = embed(analyses.strips(folder), max_images=max_images, max_bytes=room)
    return Report(_page(html, curves, pictures), len(pictures.images), pictures.left_out)


def _page(html: Mapping[str, str], curves: Mapping[str, Any], pictures: Embedded) -> str:
    style, script = _asset("style.css"), "\n".join(_asset(name) for name in SCRIPTS)
    told = [f"Embedded as {pictures.form}."] if pictures.images else ["No pictures were kept."]
    return Template(_asset("page.html")).substitute(
        html,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        curves_notes=notes([] if curves else ["No metric has a value."]),
        pictures_notes=notes([*told, *pictures.left_out]),
        data=_json({"curves": curves, "images": pictures.images}),
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As the page's security policy names inline text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")

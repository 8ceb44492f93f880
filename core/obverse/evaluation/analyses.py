"""What a results folder says, as plain dictionaries and lists: for tables, figures and reports.

Every function takes the folder that `obverse eval` wrote and reads its files alone; nothing is measured again. Records
carry `source`: "measured" for the folder's own, and "paper" for published numbers, which follow them with `paper=True`.
Lists are ordered by codec as in `run.json`, then by rate.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from obverse.evaluation import paper as published
from obverse.evaluation.curves import folder_curves, metrics
from obverse.evaluation.interfaces import Sample
from obverse.evaluation.reading import Group, read_folder

PICTURES, REFERENCE = "pictures", "reference"
"""Folders of the decoded pictures, and of the originals in it."""

BITS_PER_PIXEL = 24
"""Of a picture that is not compressed: RGB, 8 bits each."""


def rd_curves(folder: Path) -> dict[str, dict[str, Any]]:
    """Rate-distortion curves, one set for each metric (figure 3 of the paper).

    Returns:
        by metric: {"metric": str, "label": str for an axis with its unit, "direction": "higher" | "lower" | None,
        "decibel": bool (values are -10 log10(1 - mean), of a metric that is stored linear),
        "curves": [{"codec": str, "source": str, "points": [{"quality": str, "bpp": float, "value": float,
        "images": int}]}]}; points in the order of their rate, those without a value left out.
    """
    results = read_folder(folder)
    told = {}
    for metric, axis in metrics(results).items():
        curves = [
            {"codec": curve.codec, "source": curve.source, "points": [vars(point) for point in curve.points]}
            for curve in folder_curves(results, metric)
        ]
        about = {"metric": metric, "label": axis.label, "direction": axis.direction, "decibel": axis.decibel}
        told[metric] = about | {"curves": curves}
    return told


def ratio_split(folder: Path, *, paper: bool = False) -> list[dict[str, Any]]:
    """How much of the compression is the tokenizer's, and how much the prior's (figure 5 of the paper).

    Overall = 24-bit size / entropy-coded bits, tokenizer = 24-bit size / bits of fixed-length codes, prior = bits of
    fixed-length codes / entropy-coded bits. Images are pooled: sums of bits are divided, so that overall = tokenizer *
    prior. Codecs without fixed-length codes are left out.

    Returns:
        [{"codec", "quality", "overall", "tokenizer", "prior", "bpp_fixed", "bpp_coded", "images", "coded": "payload" |
        "estimated" (what was counted), "source"}]; rows of the paper follow from its numbers of tokens ("derived":
        True), and have None for what depends on pictures.
    """
    rows = [row for group in read_folder(folder).groups if (row := _ratio_row(group)) is not None]
    return rows + (published.ratios() if paper else [])


def _ratio_row(group: Group) -> dict[str, Any] | None:
    pixels = sum(sample.width * sample.height for sample in group.samples)
    fixed = group.total(lambda sample: _bits(sample, sample.bpp_fixed))
    payload = group.total(lambda sample: _bits(sample, sample.bpp_payload))
    coded = group.total(lambda sample: _bits(sample, sample.bpp_estimated)) if payload is None else payload
    if not fixed or not coded:
        return None
    size = BITS_PER_PIXEL * pixels
    return {
        "codec": group.codec,
        "quality": group.quality,
        "overall": size / coded,
        "tokenizer": size / fixed,
        "prior": fixed / coded,
        "bpp_fixed": fixed / pixels,
        "bpp_coded": coded / pixels,
        "images": len(group.samples),
        "coded": "estimated" if payload is None else "payload",
        "source": "measured",
    }


def _bits(sample: Sample, bpp: float | None) -> float | None:
    return None if bpp is None else bpp * sample.width * sample.height


def coding_times(folder: Path, *, paper: bool = False) -> list[dict[str, Any]]:
    """Mean seconds per image, of networks and of entropy coding apart (table III of the paper).

    Returns:
        [{"codec", "quality", "encoding", "decoding", "encoding_coder", "decoding_coder", "encoding_network",
        "decoding_network", "images", "source"}]; a part that was not measured is None.
    """
    rows = []
    for group in read_folder(folder).groups:
        row: dict[str, Any] = {"codec": group.codec, "quality": group.quality}
        for way in ("encoding", "decoding"):
            whole, coder = _mean_time(group, way), _mean_time(group, f"coder_{way}")
            network = None if whole is None or coder is None else whole - coder
            row |= {way: whole, f"{way}_coder": coder, f"{way}_network": network}
        rows.append(row | {"images": len(group.samples), "source": "measured"})
    return rows + (published.times() if paper else [])


def _mean_time(group: Group, name: str) -> float | None:
    return group.mean(lambda sample: sample.times.get(name))


def model_table(folder: Path, *, paper: bool = False) -> list[dict[str, Any]]:
    """Parameters, codebooks and tokens (tables I and II of the paper).

    Returns:
        [{"codec", "qualities": int, "parameters", "codebook", "tokens", "licence", "fingerprint", "source"}]; those of
        the paper have "tokenizer", "modelling", "condition", "scales" and "tokenizer_parameters" too, where it tells
        them, and "parameters" of the prior alone where it tells them apart. Unknown values are None.
    """
    rows = [
        {
            "codec": name,
            "qualities": len(facts.get("qualities") or ()),
            **{key: facts.get(key) for key in ("parameters", "codebook", "tokens", "licence", "fingerprint")},
            "source": "measured",
        }
        for name, facts in read_folder(folder).subjects.items()
    ]
    return rows + (published.models() if paper else [])


def strips(folder: Path) -> list[dict[str, Any]]:
    """Decoded pictures beside their originals (figure 4 of the paper), of the images whose pictures were kept.

    Returns:
        [{"filename", "width", "height", "reference": Path | None, "pictures": [{"codec", "quality", "bpp", "metrics":
        {name: float | None}, "path": Path}]}], images in the order of their names, pictures by codec, then rate. Paths
        lead to files that exist.
    """
    found: dict[str, dict[str, Any]] = {}
    for group in read_folder(folder).groups:
        for sample in group.samples:
            if sample.picture is None or not (folder / sample.picture).is_file():
                continue
            about = {"filename": sample.filename, "width": sample.width, "height": sample.height}
            strip = found.setdefault(sample.filename, about | {"reference": _reference(folder, sample), "pictures": []})
            told = {"codec": sample.codec, "quality": sample.quality, "bpp": sample.bpp}
            strip["pictures"].append(told | {"metrics": dict(sample.metrics), "path": folder / sample.picture})
    return [found[name] for name in sorted(found)]


def _reference(folder: Path, sample: Sample) -> Path | None:
    """The original of a decoded picture: the same path below `pictures/reference` as below its codec and quality."""
    assert sample.picture is not None
    below = PurePosixPath(sample.picture).parts[3:]
    path = folder.joinpath(PICTURES, REFERENCE, *below)
    return path if path.is_file() else None

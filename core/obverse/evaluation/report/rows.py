"""Rows and columns of the tables about operating points and about single images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from obverse.evaluation.axes import RATES
from obverse.evaluation.curves import metrics
from obverse.evaluation.interfaces import Sample
from obverse.evaluation.reading import Results
from obverse.evaluation.report.tables import Column

Row = dict[str, Any]

MAX_SAMPLES = 4000
"""Rows of the table of single images; more make browsers slow."""

_ARROWS: Mapping[str | None, str] = {"higher": " ↑", "lower": " ↓", None: ""}


def rate_columns() -> list[Column]:
    """Bits per pixel, counted in every way."""
    return [Column(name, name.replace("_", " "), decimals=4, hint=hint) for name, hint in RATES.items()]


def metric_columns(results: Results) -> list[Column]:
    """Every metric, with an arrow to where it is better."""
    return [
        Column(name, name + _ARROWS[axis.direction], hint=f"{axis.direction} is better" if axis.direction else "")
        for name, axis in metrics(results).items()
    ]


def averages(results: Results) -> list[Row]:
    """Means over the images, values that are not defined left out, of every codec and quality."""
    rows = []
    for group in results.groups:
        row: Row = {"codec": group.codec, "quality": group.quality, "images": len(group.samples)}
        for rate in RATES:
            row[rate] = group.mean(lambda sample, rate=rate: getattr(sample, rate))  # type: ignore[misc]
        for name in metrics(results):
            row[name] = group.mean(lambda sample, name=name: sample.metrics.get(name))  # type: ignore[misc]
        pooled = results.set_metrics.get(group.codec, {}).get(group.quality, {})
        rows.append(row | dict(pooled))
    return rows


def samples(results: Results) -> list[Row]:
    """Every image, codec and quality."""
    return [_row(sample) for group in results.groups for sample in group.samples]


def _row(sample: Sample) -> Row:
    return {
        "filename": sample.filename,
        "codec": sample.codec,
        "quality": sample.quality,
        "size": f"{sample.width} × {sample.height}",
        "bytes": sample.bytes,
        **{rate: getattr(sample, rate) for rate in RATES},
        **sample.metrics,
        "encoding": sample.times.get("encoding"),
        "decoding": sample.times.get("decoding"),
    }

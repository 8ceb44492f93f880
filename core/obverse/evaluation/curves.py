"""Rate-distortion curves, from result folders and result files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obverse.errors import UnsupportedInputError
from obverse.evaluation.axes import RATES, Axis, axis
from obverse.evaluation.reading import Group, Results, read_codec_file, read_folder


@dataclass(frozen=True)
class Point:
    """A rate and what it buys.

    Attributes:
        bpp: mean bits per pixel.
        value: mean of the metric, as its axis shows it.
        quality: setting of the codec; None where a file does not tell.
        images: that were averaged; None as above.
    """

    bpp: float
    value: float
    quality: str | None = None
    images: int | None = None


@dataclass(frozen=True)
class Curve:
    """One codec and one metric.

    Attributes:
        codec: name.
        axis: of the metric.
        points: in the order of their rate.
        source: `measured`, or `paper` for published numbers.
    """

    codec: str
    axis: Axis
    points: Sequence[Point]
    source: str = "measured"


def read_curves(path: str | Path, metric: str, rate: str = "bpp") -> list[Curve]:
    """The curves of a folder of `obverse eval`, or the one of a result file; codecs without the metric are left out.

    Args:
        path: of a folder or a file, also one of CompressAI's.
        metric: name, or the short form of one: `psnr`, `ms-ssim`.
        rate: one of `RATES`.

    Raises:
        UnsupportedInputError: the files cannot be read, or none has the metric.
    """
    if Path(path).is_dir():
        return folder_curves(read_folder(path), metric, rate)
    read, vertical = read_codec_file(path), axis(metric)
    for name in (vertical.metric, rate):
        if name not in read.results:
            raise UnsupportedInputError(f"{str(path)!r} has no {name} (it has {', '.join(read.results)})")
    pairs = zip(read.results[rate], read.results[vertical.metric], strict=True)
    points = _points(vertical, [(bpp, value, None, None) for bpp, value in pairs])
    if not points:
        raise UnsupportedInputError(f"{str(path)!r} has no value of {vertical.metric}")
    return [Curve(read.name, vertical, points, read.source)]


def folder_curves(results: Results, metric: str, rate: str = "bpp") -> list[Curve]:
    """The curves of a results folder, in the order of its codecs.

    Raises:
        UnsupportedInputError: no codec has the metric.
    """
    told = metrics(results)
    vertical = axis(metric)
    if vertical.metric not in told:
        raise UnsupportedInputError(f"{str(results.folder)!r} has no {metric} (it has {', '.join(told) or 'none'})")
    vertical = told[vertical.metric]
    curves = []
    for codec in dict.fromkeys(group.codec for group in results.groups):
        groups = [group for group in results.groups if group.codec == codec]
        points = _points(
            vertical,
            [(_rate(one, rate), _value(results, one, vertical), one.quality, len(one.samples)) for one in groups],
        )
        if points:
            curves.append(Curve(codec, vertical, points))
    return curves


def chosen_curves(
    paths: Iterable[str | Path], metric: str, rate: str = "bpp", codecs: Sequence[str] = ()
) -> list[Curve]:
    """The curves of several folders and files, in their order.

    Args:
        paths: as for `read_curves`.
        metric: as there.
        rate: as there.
        codecs: names of those that are wanted; empty: all.

    Raises:
        UnsupportedInputError: a file cannot be read, or has neither metric nor codec.
    """
    curves = [curve for path in paths for curve in read_curves(path, metric, rate)]
    names = [curve.codec for curve in curves]
    missing = [codec for codec in codecs if codec not in names]
    if missing:
        raise UnsupportedInputError(f"no results of {missing[0]!r} (codecs: {', '.join(names)})")
    return [curve for curve in curves if not codecs or curve.codec in codecs]


def metrics(results: Results) -> dict[str, Axis]:
    """Metrics of a results folder by name, those of single images first, then those of the whole set."""
    single = [name for group in results.groups for sample in group.samples for name in sample.metrics]
    pooled = [name for by_quality in results.set_metrics.values() for one in by_quality.values() for name in one]
    told: Mapping[str, Mapping[str, Any]] = results.run["metrics"]
    names = dict.fromkeys([*single, *pooled])
    return {name: axis(name, told.get(name, {}).get("direction")) for name in names}


def _points(vertical: Axis, rows: Iterable[tuple[float | None, float | None, str | None, int | None]]) -> list[Point]:
    points = []
    for bpp, value, quality, images in rows:
        shown = None if value is None else vertical.shown(value)
        if bpp is not None and math.isfinite(bpp) and shown is not None:
            points.append(Point(bpp, shown, quality, images))
    return sorted(points, key=lambda point: point.bpp)


def _rate(group: Group, rate: str) -> float | None:
    assert rate in RATES
    return group.mean(lambda sample: getattr(sample, rate))


def _value(results: Results, group: Group, vertical: Axis) -> float | None:
    pooled = results.set_metrics.get(group.codec, {}).get(group.quality, {})
    if vertical.metric in pooled:
        return pooled[vertical.metric]
    return group.mean(lambda sample: sample.metrics.get(vertical.metric))

"""`obverse eval`."""

from __future__ import annotations

import json as encoder
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from obverse.cli import options
from obverse.cli.exit import ExitCode, UsageError
from obverse.cli.jobs import tracked
from obverse.errors import UnsupportedInputError

if TYPE_CHECKING:
    from obverse.evaluation.interfaces import Subject
    from obverse.evaluation.results import Average
    from obverse.evaluation.runner import Chosen, Outcome, Runner, Skipped, Step

_SHOWN = ("bpp", "bpp_estimated", "encoding_time", "decoding_time")
"""Columns of the table beside the metrics."""


class Keep(StrEnum):
    """Whose decoded pictures are kept."""

    none = "none"
    some = "some"
    all = "all"


def evaluate(
    dataset: Annotated[Path, typer.Argument(help="Folder with images.")],
    codecs: Annotated[
        list[str] | None,
        typer.Option("--codec", "-m", "--model", help="Codec or anchor, as pocket-vq or jpeg:10,20,30. Repeat it."),
    ] = None,
    qualities: Annotated[
        str | None,
        typer.Option("--quality", "-q", help="Qualities, as 1,3,5, of codecs that name none. (default: all)"),
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metrics", help="Metrics, as psnr-rgb,ms-ssim-rgb. (default: psnr-rgb)")
    ] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", help="vfm-codec (central 512x512), full, centre-N or crop=N.")
    ] = "vfm-codec",
    out: Annotated[Path | None, typer.Option("--out", "-d", "--output-directory", help="Folder for results.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N images by name.")] = None,
    keep: Annotated[
        Keep, typer.Option("--keep-pictures", help="Decoded pictures to keep; some are those of the first 8 images.")
    ] = Keep.some,
    metric_options: Annotated[
        list[str] | None, typer.Option("--metric-option", help="NAME.KEY=VALUE, as lpips-alex.weights=FILE.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", "-w", help="Weights of a codec, CODEC=FILE; or FILE for all, as a folder of them."),
    ] = None,
    device: options.DeviceOption = "cpu",
    numerics: options.NumericsOption = None,
    json: options.JsonOption = False,
) -> ExitCode:
    """Measure rate, quality and time of codecs on a folder of images; a run that was stopped continues where it was.

    For several processes: accelerate launch -m obverse eval DATASET ...
    """
    from obverse.evaluation.dataset import find_images
    from obverse.evaluation.protocols import protocol as named_protocol
    from obverse.evaluation.results import write_results
    from obverse.evaluation.runner import Runner
    from obverse.group import joined, own_device

    if not codecs:
        raise UsageError("name what to evaluate with --codec, as --codec pocket-vq --codec jpeg:10,20,30")
    if out is None:
        raise UsageError("name a folder for the results with --out")
    chosen_protocol, chosen_metrics = named_protocol(protocol), _metrics(metrics or ["psnr-rgb"], metric_options or [])
    with joined() as group:
        runner = Runner(
            folder=out,
            dataset=find_images(dataset, limit),
            protocol=chosen_protocol,
            subjects=_subjects(codecs, qualities, weights or [], own_device(device), numerics),
            metrics=chosen_metrics,
            keep=keep.value,
            group=group,
        )
        _check_any(runner)
        _follow(runner, tracked(runner.run(), runner.steps) if group.first else runner.run())
        outcome = runner.finish()
        if outcome is None:
            return ExitCode.DONE
        _check_samples(outcome)
        write_results(out, runner, outcome)
        _report(out, runner, outcome, json)
        return ExitCode.DONE if all(entry.expected for entry in outcome.skipped) else ExitCode.SOME_FAILED


def _subjects(
    codecs: Sequence[str], qualities: str | None, weights: Sequence[str], device: str, numerics: str | None
) -> list[tuple[Subject, list[Any]]]:
    """Codecs, each with the qualities that are asked for."""
    from obverse.evaluation.names import subject

    found: dict[str, tuple[Subject, list[Any]]] = {}
    for text in codecs:
        source, own = _split_codec(text)
        files = [file for codec, file in map(_split_weights, weights) if codec in (None, source)]
        made = subject(source, weights=files, device=device, numerics=numerics)
        if made.name in found:
            raise UsageError(f"codec {made.name!r} is named twice; list its qualities together, as {made.name}:1,2")
        asked = qualities if own is None else own
        wanted = [made.parse_quality(word) for word in _words(asked)] if asked is not None else list(made.qualities)
        found[made.name] = made, list(dict.fromkeys(wanted))
    named = {codec for codec, _ in map(_split_weights, weights) if codec is not None}
    if unknown := sorted(named - {_split_codec(text)[0] for text in codecs}):
        raise UsageError(f"--weights are given for {unknown[0]!r}, which no --codec names")
    return list(found.values())


def _split_codec(text: str) -> tuple[str, str | None]:
    """`jpeg:10,20` in two; a path keeps its colons unless qualities follow."""
    source, colon, qualities = text.rpartition(":")
    return (source, qualities) if colon and "/" not in qualities else (text, None)


def _split_weights(text: str) -> tuple[str | None, str]:
    """`CODEC=FILE` in two; a file that exists is meant as a whole."""
    codec, equals, file = text.partition("=")
    return (codec, file) if equals and "/" not in codec and not Path(text).exists() else (None, text)


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if "" in words:
        raise UsageError(f"{text!r} is no list of words with commas between")
    return words


def _metrics(lists: Sequence[str], given: Sequence[str]) -> list[Chosen]:
    """Metrics with their options."""
    from obverse.evaluation.names import metric
    from obverse.evaluation.runner import Chosen

    names = dict.fromkeys(word for text in lists for word in _words(text))
    chosen: dict[str, dict[str, Any]] = defaultdict(dict)
    for text in given:
        name, key, value = _metric_option(text)
        if name not in names:
            raise UsageError(f"--metric-option {text!r} is of a metric that --metrics does not name")
        chosen[name][key] = value
    return [Chosen(metric(name, chosen[name]), chosen[name]) for name in names]


def _metric_option(text: str) -> tuple[str, str, Any]:
    left, equals, value = text.partition("=")
    name, dot, key = left.rpartition(".")
    if not equals or not dot or not key.isidentifier():
        raise UsageError(f"--metric-option {text!r} is not of the form NAME.KEY=VALUE, as lpips-alex.weights=FILE")
    try:
        return name, key, encoder.loads(value)
    except ValueError:  # a word needs no quotes
        return name, key, value


def _check_any(runner: Runner) -> None:
    """Refuse a run of codecs none of which can run."""
    if not runner.points:
        raise UnsupportedInputError(f"no codec can run: {'; '.join(_line(entry) for entry in runner.skipped)}")
    if runner.group.first:
        for entry in runner.skipped:
            print(f"obverse: {_line(entry)}; left out", file=sys.stderr)


def _check_samples(outcome: Outcome) -> None:
    if not outcome.samples:
        first = outcome.skipped[0]
        raise UnsupportedInputError(f"nothing could be measured: {_line(first)} (and {len(outcome.skipped) - 1} more)")


def _follow(runner: Runner, steps: Iterable[Step]) -> None:
    """Do the work, telling what is left out and, away from a terminal, which codec is at work."""
    point = None
    for step in steps:
        if step.skipped is not None:
            print(f"obverse: {_line(step.skipped)}; left out", file=sys.stderr)
        if step.point is not point and runner.group.first and not sys.stderr.isatty():
            print(step.point, file=sys.stderr)
        point = step.point


def _line(entry: Skipped) -> str:
    return f"{entry.what}: {' '.join(entry.reason.split())}"


def _report(out: Path, runner: Runner, outcome: Outcome, json: bool) -> None:
    from obverse.evaluation.results import averages

    found = averages(outcome.samples)
    dataset = runner.dataset
    print(f"{len(dataset.files)} images in {dataset.root}, list {dataset.hash[:16]}; results in {out}", file=sys.stderr)
    if json:
        skipped = [{"what": entry.what, "reason": entry.reason} for entry in outcome.skipped]
        report = {
            "out": str(out),
            "dataset": dataset.describe(),
            "protocol": runner.protocol.describe(),
            "results": [asdict(average) for average in found],
            "set_metrics": outcome.set_metrics,
            "skipped": skipped,
        }
        print(encoder.dumps(report, indent=2))
    else:
        _table(found, [chosen.metric.name for chosen in runner.metrics], outcome.set_metrics)


def _table(
    averages: Sequence[Average], metrics: Sequence[str], sets: Mapping[str, Mapping[str, Mapping[str, float | None]]]
) -> None:
    """Means by codec and quality; lines are as long as they are, for a pipe to read."""
    columns = [*_SHOWN[:2], *metrics, *_SHOWN[2:]]
    of_sets = list(dict.fromkeys(name for codec in sets.values() for point in codec.values() for name in point))
    rows = [["CODEC", "QUALITY", "IMAGES", *(name.upper() for name in (*columns, *of_sets))]]
    for average in averages:
        values = [average.values[name] for name in columns]
        values += [sets.get(average.codec, {}).get(average.quality, {}).get(name) for name in of_sets]
        shown = ["-" if value is None else f"{value:.4f}" for value in values]
        rows.append([average.codec, average.quality, str(average.images), *shown])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
